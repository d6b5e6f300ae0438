import pytest
from sentence_transformers.base.modules import Dense
from torch import nn
from transformers import ElectraConfig, ElectraModel

from embedding_api.encoder.read_model import model_info, why_not_kernel
from tests.support.small_bert import ARCHITECTURES, Modules, assemble, small_bert


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "silu"}, "its activation is silu, not gelu, "),
        ({"is_decoder": True}, "it is a decoder"),
        ({"position_embedding_type": "relative_key"}, "other than absolute positions"),
        ({"pooling": "lasttoken"}, "its pooling is lasttoken, not cls, mean, mean_sqrt_len_tokens or max"),
        ({"pooling": ("cls", "mean")}, "its pooling is ('cls', 'mean'), not cls"),
        ({"hidden_size": 96}, "its attention heads have 48 dimensions, not 32 or 64"),
        ({"intermediate_size": 98}, "its intermediate size is no multiple of 4"),
        ({"num_hidden_layers": 0}, "it has no layers"),
    ],
)
def test_other_models_are_not_for_the_kernel(change, reason):
    assert reason in why_not_kernel(small_bert(**change))


def test_pooling_another_layer_is_not_for_the_kernel():
    model = small_bert()
    model[0].modality_config = {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}
    assert "last layer" in why_not_kernel(model)


def test_other_architectures_are_not_for_the_kernel():
    config = ElectraConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    reason = why_not_kernel(assemble(ElectraModel(config), "cls", 8))
    assert reason.startswith("it is a ElectraModel, not a BertModel, ")


@pytest.mark.parametrize(
    ("dense", "reason"),
    [
        (Dense(64, 8, activation_function=nn.Sigmoid()), "is Sigmoid, not Identity, ReLU or Tanh"),
        (Dense(64, 64, use_residual=True), "has a residual"),
        (Dense(64, 64, module_input_name="token_embeddings"), "does not make the vector of the pooled one"),
        (Dense(32, 8), "reads 32 numbers, not 64"),
    ],
)
def test_other_dense_modules_are_not_for_the_kernel(dense, reason):
    model = small_bert()
    assert reason in why_not_kernel(Modules([*model[:2], dense, *model[2:]]))


def test_other_modules_are_not_for_the_kernel():
    transformer, pooling, normalize = small_bert()
    for modules in ([transformer], [transformer, normalize, pooling], [transformer, pooling, normalize, Dense(64, 8)]):
        assert (
            why_not_kernel(Modules(modules)) == "its modules are not Transformer, Pooling, perhaps Dense, and Normalize"
        )
    assert why_not_kernel(Modules([transformer, pooling])) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_text_has_no_more_tokens_than_there_are_positions(architecture):
    class Backend:
        def to_str(self):
            return "{}"

    class Tokenizer:
        backend_tokenizer = Backend()

    model = small_bert(architecture=architecture)
    model.tokenizer, model.prompts, model.max_seq_length = Tokenizer(), {}, 512
    assert model_info(model).max_length == 64
