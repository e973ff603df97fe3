"""All files of a case appear together, or none does."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klip_monai.errors import OutputError

_STAGING_PREFIX = ".klip-staging-"


def check_writable(directory: str | Path) -> None:
    """Refuse an output folder that cannot be made or written to, before any work is done and without making it.

    Args:
        directory: output folder; it need not exist.

    Raises:
        OutputError: the folder, or the nearest one above it that exists, is no folder or is read-only.
    """
    directory = Path(directory)
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    code = 0 if os.access(existing, os.W_OK | os.X_OK) else errno.EACCES
    code = code if existing.is_dir() else errno.ENOTDIR
    if code:
        raise _refusal(directory, OSError(code, os.strerror(code)))


@contextmanager
def publish(directory: str | Path, *, last: str | None = None) -> Iterator[Path]:
    """Collect the files of one case in a hidden folder and move them into place when all are complete.

    The staging folder lies inside `directory`, so that each move is a rename on one file system. When the block raises
    or the process is interrupted, the files of an earlier run stay as they were.

    Args:
        directory: output folder; created when missing.
        last: name of the file to move after all others, so that its presence says that the case is complete.

    Yields:
        The folder to write into. Sub-folders are moved file by file into the same sub-folders of `directory`.

    Raises:
        OutputError: the folder cannot be made or written to, or a file cannot be moved into place.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=directory))
    except OSError as error:
        raise _refusal(directory, error) from error
    try:
        yield staging
        _move_files(staging, directory, last)
    except OutputError:
        raise
    except OSError as error:
        if _concerns(error, staging):
            raise _refusal(directory, error) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_files(staging: Path, directory: Path, last: str | None) -> None:
    """Rename every staged file; nothing is moved when one of them could not be."""
    names = sorted(path.relative_to(staging) for path in staging.rglob("*") if not path.is_dir())
    names.sort(key=lambda name: name.as_posix() == last)
    if last is not None and (not names or names[-1].as_posix() != last):
        raise OutputError(f"{directory}: got no file {last!r} to complete the case with, expected it among the written")
    for name in names:
        if (directory / name).is_dir():
            raise OutputError(
                f"{directory / name}: got a folder, expected a file or nothing; remove it or choose another output"
            )
    try:
        for name in names:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, directory / name)
    except OSError as error:
        raise _refusal(directory, error) from error


def _concerns(error: OSError, staging: Path) -> bool:
    """Whether the error is about our files; a write to a full disk carries no file name at all."""
    if error.filename is None:
        return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return str(error.filename).startswith(str(staging))


def _refusal(directory: Path, error: OSError) -> OutputError:
    """One line for the user."""
    reason = error.strerror or str(error)
    return OutputError(
        f"{directory}: cannot be written to ({reason}); free space, change its permissions or choose another output"
    )
