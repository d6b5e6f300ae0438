"""Folders for small files that all processes of the service share."""

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path

MEMORY = "/dev/shm"
# Not the prefix of earlier versions, whose directories are not locked and would look abandoned.
_PREFIX = "embedding-metrics-locked-"


def writable_folder() -> str:
    """The folder for small files: in memory, as a slow disk would delay workers, or else the temporary folder.

    Without a temporary folder, libraries get the one in memory: it is set as TMPDIR.

    Raises:
        SystemExit: neither can be written to.
    """
    folders = [folder for folder in (MEMORY, _temporary_folder()) if folder and _is_writable(folder)]
    if not folders:
        sys.exit(
            f"Error: Neither {MEMORY} nor a temporary folder can be written to: set TMPDIR to a folder that this user"
            " can write to."
        )
    if not _temporary_folder():
        os.environ["TMPDIR"] = tempfile.tempdir = folders[0]
    return folders[0]


def make_metrics_directory(parent: str, uid: int, gid: int) -> str:
    """Make a directory for the metrics of workers that run as this user and group. Returns its path.

    It is locked as long as this process or one forked from it lives, and removed when this process exits. If it is
    killed, the next start removes the directory.
    """
    _remove_abandoned(parent)
    directory = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    # Never closed: forked processes inherit it, and the lock lasts until the last of them ends.
    fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_SH)
    os.chown(directory, uid, gid)
    atexit.register(_remove, directory, os.getpid())
    return directory


def _temporary_folder():
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


def _is_writable(folder):
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _remove_abandoned(parent):
    """Remove the directories that no process has locked."""
    for directory in Path(parent).glob(_PREFIX + "*"):
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            # It is another user's, or has just been removed.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An empty one may be new, and not locked yet.
            if os.listdir(descriptor):
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _remove(directory, owner):
    # atexit handlers run in forked workers too; only the master may delete.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)
