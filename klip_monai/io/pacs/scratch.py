"""Temporary folders that hold patients' data, and so must go even if their process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from klip_monai.errors import OutputError

_PREFIX = "klip-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder (of `TMPDIR`) that only its owner can read, deleted at the end.

    Its lock ends with the process, so what a killed process left is told from what is in use, and is deleted when the
    next one makes a folder there, or by :func:`sweep`.

    Yields:
        The folder, empty.

    Raises:
        OutputError: it cannot be made.
    """
    sweep()
    try:
        folder, lock = _locked_folder()
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: cannot make a temporary folder ({error.strerror}); free some room or set TMPDIR"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep() -> None:
    """Delete what killed processes of this user left in the temporary folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, another user's, or gone already
            lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _locked_folder() -> tuple[Path, int]:
    """A new folder and its lock; once more if it was swept away before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):
            lock = _lock(folder, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _lock(folder: Path, how: int) -> int:
    """Open and lock a folder, never what a link leads to."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, how)
    except OSError:
        os.close(handle)
        raise
    return handle
