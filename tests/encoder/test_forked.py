import os
import signal
import sys

import pytest
import torch

from embedding_api.encoder.forked import run_forked
from embedding_api.errors import ConfigError


def test_the_result_comes_back_and_imports_do_not():
    def work(number):
        import this  # noqa: F401 - prints a poem, and is imported nowhere else

        return {"a": torch.full((2, 3), number, dtype=torch.bfloat16)}, "this" in sys.modules, os.getpid()

    answer, imported, process = run_forked(work, 5)
    assert answer["a"].dtype == torch.bfloat16
    assert answer["a"].tolist() == [[5] * 3] * 2
    assert imported
    assert "this" not in sys.modules
    assert process != os.getpid()


def test_a_configuration_error_is_raised_here():
    def fail():
        raise ConfigError("set it to something else")

    with pytest.raises(ConfigError, match="set it to something else"):
        run_forked(fail)


@pytest.mark.parametrize(
    ("end", "code"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), -9), (lambda: os._exit(3), 3), (lambda: 1 / 0, 1)]
)
def test_a_child_that_dies_is_reported(end, code):
    with pytest.raises(ChildProcessError, match=f"exit code {code}$"):
        run_forked(end)
