import os
import platform
import subprocess
import sys

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.slow

# By itself malloc takes blocks of a size from a heap once one of that size has been freed.
SCRIPT = """
import re, threading
import numpy as np
from embedding_api.server import malloc

def own_kb():
    return int(re.search("RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

def allocate():
    for size in (8, 6):
        np.ones(size << 20, np.uint8)

before = own_kb()
{call}
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
malloc.trim()
print(own_kb() - before)
"""


def grown(call):
    """By how many KB a process grows whose thread has freed 6 MB; `call` comes before the thread."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has several arenas")
def test_what_threads_have_freed_is_given_back():
    assert grown("malloc.map_large_blocks()") < 3000
    # Without, malloc keeps it for the thread.
    assert grown("pass") > 5000
