"""Every file under the sources of an archive, folder by folder; sources are only read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.dicom.files import DicomFiles
from klip_monai.io.folders import Entry, Listing, walk


def listings(sources: Iterable[Path], *, leave_out: Path | None = None) -> Iterator[Listing]:
    """List everything under the sources, one folder at a time, in the order of the names.

    A link to a folder is followed unless the folder holds a source, or lies in one that is listed anyway; so loops end.

    Args:
        sources: folders, files, archives, DICOMDIRs, and text files (.txt) that name such, one a line, relative to the
            text file; lines may be empty or begin with #.
        leave_out: a folder to pass by.

    Raises:
        InputError: a source does not exist, or is a damaged DICOMDIR.
    """
    sources = [Path(source) for source in sources]
    for source in sources:
        if not source.exists():
            raise InputError(
                f"archive: got {str(source)!r}, which does not exist, expected a folder, a zip or tar, a DICOMDIR, a "
                "NIfTI or NRRD file, or a .txt that lists such; check the spelling"
            )
    roots: set[Path] = set()
    for source in sources:
        yield from _source(source.resolve(), roots, leave_out)


def _source(source: Path, roots: set[Path], leave_out: Path | None) -> Iterator[Listing]:
    if source.is_dir():
        yield from walk(source, roots, leave_out)
    elif source.suffix.lower() == ".txt":
        for line in source.open(encoding="utf-8", errors="surrogateescape"):
            named = line.rstrip("\r\n")
            if named.strip() and not named.startswith("#"):
                path = source.parent / named
                if path.suffix.lower() == ".txt" or not path.exists():
                    yield Listing(str(path), problem="listed, and not there")
                else:
                    yield from _source(path.resolve(), roots, leave_out)
    elif source.name.upper() == "DICOMDIR":
        with DicomFiles(source) as files:
            for file in files:
                yield Listing(str(file.path), [Entry("", 0, 0)]) if file.problem else _single(file.path)
    else:
        yield _single(source)


def _single(path: Path) -> Listing:
    try:
        status = path.stat()
    except OSError:
        return Listing(str(path), problem="unreadable file")
    return Listing(str(path), [Entry("", status.st_size, status.st_mtime_ns)])
