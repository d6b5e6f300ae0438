"""A process of its own for what leaves much behind in memory."""

import gc
import os
import pickle
import signal
import traceback

from embedding_api.errors import ConfigError


def run_forked(function, *arguments):
    """What a function returns in a forked child, with which everything goes that it has imported and allocated.

    It comes back as pickle copies it. The child logs as this process does.

    Raises:
        ConfigError: the function has raised it.
        ChildProcessError: the child has ended without an answer; says how.
    """
    # Not through a pipe: one that is full waits for its reader, who would have to look out for the child's death.
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
    # Whatever happens, the child must not go on as if it were its parent.
    code = 1
    try:
        # Ctrl-C goes to both processes; the parent has the word.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Nor does garbage matter here: importing sentence-transformers takes half a second less without collecting it.
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
