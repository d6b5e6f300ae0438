"""What malloc keeps, and what it gives back: in a process of its own, as it cannot be undone."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")

# Twelve megabytes twice, as the activations of a forward pass, and the pages that the last of some such rounds gets.
SCRIPT = """
from resource import RUSAGE_SELF, getrusage
from embedding_api import memory
{first}
for _ in range(5):
    before = getrusage(RUSAGE_SELF).ru_minflt
    blocks = [b"x" * (12 << 20) for _ in range(2)]
    del blocks
    {then}
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


def pages(first, then="pass"):
    command = [sys.executable, "-c", SCRIPT.format(first=first, then=then)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_what_a_pass_frees_is_there_for_the_next_one():
    assert pages("memory.keep_for_passes()") < 100 < 3000 < pages("pass")


def test_it_can_still_be_given_back():
    assert pages("memory.keep_for_passes()", "memory.give_back()") > 3000
