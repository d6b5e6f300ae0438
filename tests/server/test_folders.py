"""Where the service puts its files. Those of a service that was killed are removed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from embedding_api.server import folders
from tests.support.server import ROOT

HOLD = """
import os, sys
from embedding_api.server.folders import make_metrics_directory
directory = make_metrics_directory(sys.argv[1], os.getuid(), os.getgid())
open(directory + "/counter_1.db", "w").close()
if os.fork():
    os.kill(os.getpid(), 9)
print(directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """A folder in place of /dev/shm."""
    monkeypatch.setattr(folders, "MEMORY", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_temporary_folder(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/before")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/no/such/folder"])


def test_files_go_into_memory(memory):
    assert folders.writable_folder() == str(memory)


def test_where_that_is_not_possible_they_go_into_the_temporary_folder(monkeypatch, tmp_path):
    # Nobody, root included, can write there.
    monkeypatch.setattr(folders, "MEMORY", "/proc/self")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert folders.writable_folder() == str(tmp_path)


@pytest.mark.usefixtures("no_temporary_folder")
def test_libraries_get_a_temporary_folder_where_there_is_none(memory):
    assert folders.writable_folder() == tempfile.gettempdir() == os.environ["TMPDIR"] == str(memory)


@pytest.mark.usefixtures("no_temporary_folder")
def test_without_any_folder_one_sentence_says_what_to_set(monkeypatch):
    monkeypatch.setattr(folders, "MEMORY", "/proc/self")
    with pytest.raises(SystemExit, match=r"^Error: Neither /proc/self nor a temporary folder .* set TMPDIR to"):
        folders.writable_folder()


def test_only_directories_that_no_process_owns_are_removed(tmp_path):
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    owned = Path(holder.stdout.readline().strip())
    # Its maker has been killed, and a process forked from that one lives.
    holder.wait(10)
    abandoned, empty = tmp_path / "embedding-metrics-locked-1", tmp_path / "embedding-metrics-locked-2"
    for directory in (abandoned, empty):
        directory.mkdir()
    (abandoned / "counter_1.db").touch()
    (tmp_path / "embedding-metrics-locked-3").symlink_to(owned)
    folders.make_metrics_directory(tmp_path, os.getuid(), os.getgid())
    assert not abandoned.exists()
    assert empty.exists()
    assert (owned / "counter_1.db").exists()
    # This ends the process that owns it.
    holder.communicate()
