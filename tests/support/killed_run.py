"""A bulk run with the small encoder: `python -m tests.support.killed_run IN... OUT [CALL COUNT]`.

With a call, such as fsync, the process kills itself at the so many-th call of that function of `os`.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from embedding_api.bulk import pool, run, window
from embedding_api.bulk.inputs import Inputs
from tests.support.tiny import tiny_encoder


def main(inputs, output, call=None, count=0):
    window.WINDOW_ROWS = 4
    encoder, options = tiny_encoder(), {"is_query": False, "normalize": True}
    description = run.description(encoder, Path("none"), column="text", dtype="float32", **options)
    if call:
        kill_at(call, count)
    encode = partial(pool.encode, encoder=encoder, workers=2, **options)
    complete = run.embed(
        Inputs(inputs, bad_rows="skip"), output, description, encode, strict=False, echo=lambda line: print(line)
    )
    return 0 if complete else 3


def kill_at(call, count):
    original, left = getattr(os, call), count

    def counted(*arguments, **options):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(os, call, counted)


if __name__ == "__main__":
    *arguments, last = sys.argv[1:]
    if last.isdigit():
        *inputs, output, call = arguments
        sys.exit(main(inputs, Path(output), call, int(last)))
    sys.exit(main(arguments, Path(last)))
