import logging

import pytest
import torch
import torch.nn.functional as F

from embedding_api.config import Settings
from embedding_api.encoder import linear
from embedding_api.encoder.linear import Linear, padded_count
from embedding_api.encoder.loading import load_encoder


@pytest.fixture(params=[True, False], ids=["prepacked", "plain"])
def both(request, monkeypatch):
    """Each kind of product, as far as this CPU has it."""
    prepacks = request.param and linear.prepacks()
    monkeypatch.setattr(linear, "prepacks", lambda: prepacks)
    return prepacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [True, False])
def test_products_are_those_of_torch(both, dtype, gelu):
    torch.manual_seed(1)
    rows, weight, bias = torch.randn(16, 48), torch.randn(24, 48), torch.randn(24)
    expected = F.linear(rows, weight, bias)
    expected = F.gelu(expected) if gelu else expected
    product = Linear(weight.to(dtype), bias.to(dtype), gelu)(rows.to(dtype))
    assert product.dtype == dtype
    assert product.float().numpy() == pytest.approx(expected.numpy(), abs=0.3 if dtype == torch.bfloat16 else 1e-5)


def test_there_are_few_numbers_of_rows(both):
    counts = range(1, 1025)
    padded = [padded_count(count) for count in counts]
    assert all(rows >= count for rows, count in zip(padded, counts, strict=True))
    if both:
        assert min(padded) == 4
        assert max(padded) == 1024
        assert len(set(padded)) == 36
        assert all(rows <= max(1.25 * count, count + 3) for rows, count in zip(padded, counts, strict=True))
    else:
        assert padded == list(counts)


def test_a_torch_without_the_operators_multiplies_plainly(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not linear.prepacks()
    assert Linear(torch.eye(3), torch.ones(3))(torch.zeros(2, 3)).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("slower", [True, False])
def test_bfloat16_that_is_slower_is_told(slower, model, caplog, monkeypatch):
    monkeypatch.setattr(linear, "bfloat16_is_slower", lambda: slower)
    load_encoder(Settings(model=str(model.directory), dtype="bfloat16"))
    told = [record for record in caplog.records if "EMBEDDING_DTYPE=bfloat16 is slower" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING] * slower


@pytest.mark.parametrize(("dtype", "slower"), [(torch.float32, False), (torch.bfloat16, True)])
def test_the_speed_of_bfloat16_is_measured(dtype, slower, monkeypatch):
    """The best of several runs counts, not one that something disturbed."""
    disturbed = iter([9, 2, 9, 9, 9, 9] * 2)
    times = {dtype: lambda: next(disturbed), ({torch.float32, torch.bfloat16} - {dtype}).pop(): lambda: 1}
    monkeypatch.setattr(linear, "_seconds", lambda product, rows: times[product(rows).dtype]())
    assert linear.bfloat16_is_slower() is slower
