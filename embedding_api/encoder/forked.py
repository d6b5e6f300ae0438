"""Run a function in a forked process, so that the memory it needs is freed afterwards."""

import gc
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import TypeVar

from embedding_api.errors import ConfigError

Answer = TypeVar("Answer")


def run_forked(function: Callable[..., Answer], *arguments: object) -> Answer:
    """Call a function in a forked child; returns its result, copied by pickle.

    What the function imports and allocates goes with the child. The child logs as this process does.

    Raises:
        ConfigError: the function has raised it.
        ChildProcessError: the child has ended without a result; the message says how.
    """
    # Not through a pipe: a full one blocks the child, so this process would have to read and watch the child at once.
    with open(os.memfd_create("answer"), "w+b") as file:
        pid = os.fork()
        if pid == 0:
            _answer(file, function, arguments)
        _, status = os.waitpid(pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            raise ChildProcessError(f"exit code {code}")
        file.seek(0)
        answer = pickle.load(file)
    if isinstance(answer, ConfigError):
        raise answer
    return answer


def _answer(file, function, arguments):
    # The child must end here in any case, and not continue as if it were its parent.
    code = 1
    try:
        # Ctrl-C reaches both processes; the parent reports it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Without garbage collection the import of sentence-transformers takes half a second less.
        gc.disable()
        try:
            answer = function(*arguments)
        except ConfigError as error:
            answer = error
        pickle.dump(answer, file, protocol=pickle.HIGHEST_PROTOCOL)
        file.flush()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)
