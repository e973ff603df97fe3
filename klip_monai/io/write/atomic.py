"""All files of a case appear together, or none does."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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


def check_free(directory: str | Path, names: Iterable[str]) -> None:
    """Refuse to go on where files already are.

    Args:
        directory: output folder; it need not exist.
        names: of files in it, which must not exist.

    Raises:
        OutputError: the first one that does.
    """
    directory = Path(directory)
    for name in sorted(names):
        if os.path.lexists(directory / name):
            raise OutputError(
                f"{directory / name}: already there, expected none of this case's files; choose another folder, or "
                "replace the case with --overwrite"
            )


@contextmanager
def publish(
    directory: str | Path, *, last: str | None = None, rivals: Collection[str] = (), overwrite: bool = False
) -> Iterator[Path]:
    """Collect the files of one case in a hidden folder and move them into place when all are complete.

    The staging folder lies inside `directory`, so that each move stays on one file system. When the block raises or
    the process is interrupted, the files of an earlier run stay as they were. Of two processes that publish the same
    case, one is refused, or with `overwrite` the later one replaces the case of the earlier one whole: they take turns
    by a lock of the folder. Where a file system cannot lock folders (some network shares), no file is replaced
    unasked all the same, as each is put into place only where none is.

    Args:
        directory: output folder; created when missing.
        last: name of the file to move after all others, so that its presence says that the case is complete.
        rivals: names of further files of the same case, which the new ones must not stand beside.
        overwrite: replace files of these names, and remove the `rivals`, instead of refusing.

    Yields:
        The folder to write into. Sub-folders are moved file by file into the same sub-folders of `directory`.

    Raises:
        OutputError: the folder cannot be made or written to, a file cannot be moved into place, or one is in its place.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=directory))
    except OSError as error:
        raise _refusal(directory, error) from error
    try:
        yield staging
        names = _staged(staging, last)
        with _taking_turns(directory):
            case = {*map(str, names), *rivals}
            _check_no_folder(directory, case)
            if not overwrite:
                check_free(directory, case)
            _exchange(directory, staging, names, case if overwrite else ())
    except OutputError:
        raise
    except OSError as error:
        if _concerns(error, staging):
            raise _refusal(directory, error) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _staged(staging: Path, last: str | None) -> list[Path]:
    """Relative paths of the staged files, in the order to move them."""
    names = sorted(path.relative_to(staging) for path in staging.rglob("*") if not path.is_dir())
    names.sort(key=lambda name: name.as_posix() == last)
    if last is not None and (not names or names[-1].as_posix() != last):
        raise OutputError(f"got no file {last!r} to complete the case with, expected it among those written")
    return names


def _check_no_folder(directory: Path, names: Iterable[str]) -> None:
    for name in sorted(names):
        if (directory / name).is_dir():
            raise OutputError(
                f"{directory / name}: got a folder, expected a file or nothing; remove it or choose another output"
            )


@contextmanager
def _taking_turns(directory: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with the process; go on without where there are none."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _exchange(directory: Path, staging: Path, names: Sequence[Path], earlier: Collection[str]) -> None:
    """Set the earlier files aside and put the staged ones into place, or leave all as it was."""
    aside, moved, placed = Path(tempfile.mkdtemp(prefix="aside-", dir=staging)), list[str](), list[Path]()
    try:
        for name in sorted(earlier):
            if os.path.lexists(directory / name):
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(directory / name, aside / name)
                moved.append(name)
        for path in names:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            _place(staging / path, directory / path)
            placed.append(path)
    except BaseException as error:
        for path in placed:
            (directory / path).unlink(missing_ok=True)
        for name in moved:
            os.rename(aside / name, directory / name)
        if isinstance(error, FileExistsError):  # another process was faster, on a file system without locks
            check_free(directory, map(str, names))
        if isinstance(error, OSError):
            raise _refusal(directory, error) from error
        raise


def _place(source: Path, target: Path) -> None:
    """Move a file to where none is: making a link fails where a rename would replace."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # a file system without links
        os.replace(source, target)


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
