import platform
import subprocess
import sys

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.slow

# After a block of this size has been freed, malloc takes such blocks from the arena.
SCRIPT = """
import threading
import numpy as np
from embedding_api.server import malloc
from tests.support.server import pss

def allocate():
    for size in (8, 6):
        np.ones(size << 20, np.uint8)

np.ones(1)
before = pss("self")
{call}
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
malloc.trim()
print(pss("self") - before)
"""


def grown(call):
    """By how many MB a process grows whose thread has freed 6 MB; `call` comes before the thread."""
    script = SCRIPT.format(call=call)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has several arenas")
def test_what_threads_have_freed_is_given_back():
    assert grown("malloc.use_one_arena()") < 3
    # What it is for: without, glibc keeps the end of the thread's own arena.
    assert grown("pass") > 5
