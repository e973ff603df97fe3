"""DICOM files wherever they lie: in a folder, named by a DICOMDIR, or in a zip or tar archive that stays packed."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from pydicom import dcmread

from klip_monai.errors import InputError

HEADER_BYTES = 64 * 2**20
"""A header may unpack to so much; that of an enhanced CT of thousands of frames takes a few MB."""

_FILE_BYTES = 4 * 2**30
_MAX_RATIO = 200
_RATIO_COUNTS_FROM = 2**30
_MAX_MEMBERS = 1_000_000


@dataclass(frozen=True)
class DicomFile:
    """One file that may be DICOM.

    Attributes:
        name: path below the folder or inside the archive, for messages.
        path: the file on disk, or the archive it is packed in.
        member: its entry in the archive; None for a file on disk.
    """

    name: str
    path: Path
    member: zipfile.ZipInfo | tarfile.TarInfo | None = None

    def __str__(self) -> str:
        return self.name


class DicomFiles:
    """The files under a path, in the order they are fastest to read in; a context manager.

    Nothing is written to disk: members of archives are read as streams, so their names lead nowhere. Links, devices,
    encrypted members and archives in archives are not opened.

    Args:
        path: folder (searched with its subfolders), DICOMDIR, zip or tar archive (also gzip, bzip2, xz), or one file.

    Raises:
        InputError: an archive that is damaged, or unpacks to more than 200 times its size; a DICOMDIR that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        if path.is_file():
            try:
                if zipfile.is_zipfile(path):
                    self._zip = zipfile.ZipFile(path)
                elif tarfile.is_tarfile(path):
                    self._tar = tarfile.open(path)  # noqa: SIM115 (closed with this object)
            except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
                raise self._damaged() from error

    def __enter__(self) -> DicomFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in (self._zip, self._tar):
            if archive is not None:
                archive.close()

    @property
    def is_archive(self) -> bool:
        """Whether the files are members of an archive."""
        return self._zip is not None or self._tar is not None

    @property
    def in_order(self) -> bool:
        """Whether the files must be opened one at a time and in their order: tar archives are one stream."""
        return self._tar is not None

    def __iter__(self) -> Iterator[DicomFile]:
        if self._zip is not None:
            return self._zip_members(self._zip)
        if self._tar is not None:
            return self._tar_members(self._tar)
        if self.path.is_file():
            return self._referenced() if self.path.name.upper() == "DICOMDIR" else iter([self._on_disk(self.path)])
        return self._walk()

    @contextmanager
    def open(self, file: DicomFile, *, limit: int = _FILE_BYTES) -> Iterator[BinaryIO]:
        """Open one file for reading; the stream can be sought in.

        Args:
            file: one of these files.
            limit: most bytes that a packed member may unpack to.

        Raises:
            EOFError: reading went beyond the limit.
        """
        stream: IO[bytes] | None
        if isinstance(file.member, zipfile.ZipInfo):
            assert self._zip is not None
            stream = self._zip.open(file.member)
        elif isinstance(file.member, tarfile.TarInfo):
            assert self._tar is not None
            stream = self._tar.extractfile(file.member)
        else:
            stream = file.path.open("rb")
        assert stream is not None
        with closing(stream):
            yield stream if file.member is None else _Limited(stream, limit)  # type: ignore[misc]

    def _walk(self) -> Iterator[DicomFile]:
        for root, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                path = Path(root, name)
                if path.is_file():  # a named pipe would block the reader
                    yield self._on_disk(path)

    def _on_disk(self, path: Path) -> DicomFile:
        name = path.relative_to(self.path).as_posix() if self.path.is_dir() else path.name
        return DicomFile(name, path)

    def _referenced(self) -> Iterator[DicomFile]:
        """Files that a DICOMDIR names (PS3.10, 8.6), if they lie below it; letter case may differ on disk."""
        try:
            records = list(dcmread(self.path).get("DirectoryRecordSequence") or [])
        except Exception as error:  # pydicom raises many types on damaged files
            raise InputError(
                f"{self.path}: got a damaged DICOMDIR, expected a complete one; give the folder itself"
            ) from error
        root = self.path.parent.resolve()
        for record in records:
            parts = record.get("ReferencedFileID") or ()
            parts = [parts] if isinstance(parts, str) else [str(part) for part in parts]
            for path in (root.joinpath(*parts), root.joinpath(*(part.lower() for part in parts))):
                if parts and path.is_file() and path.resolve().is_relative_to(root):
                    yield DicomFile("/".join(parts), path)
                    break

    def _zip_members(self, archive: zipfile.ZipFile) -> Iterator[DicomFile]:
        members = archive.infolist()
        self._check_size(len(members), sum(member.file_size for member in members))
        for member in members:
            if not member.is_dir() and not member.flag_bits & 1:
                yield DicomFile(str(PurePosixPath(member.filename)), self.path, member)

    def _tar_members(self, archive: tarfile.TarFile) -> Iterator[DicomFile]:
        total = 0
        try:
            for count, member in enumerate(archive):
                total += member.size
                self._check_size(count, total)
                if member.isreg():
                    yield DicomFile(str(PurePosixPath(member.name)), self.path, member)
        except (OSError, EOFError, tarfile.TarError) as error:
            raise self._damaged() from error

    def _check_size(self, members: int, unpacked: int) -> None:
        """Refuse archives made to fill memory or time; CT packs to a tenth at best."""
        packed = max(1, self.path.stat().st_size)
        if members > _MAX_MEMBERS or (unpacked > _RATIO_COUNTS_FROM and unpacked > _MAX_RATIO * packed):
            raise InputError(
                f"{self.path}: got an archive of {members} members that unpacks to {unpacked / packed:.0f} times its "
                f"size, expected at most {_MAX_RATIO} times; unpack it yourself if you trust it, and give the folder"
            )

    def _damaged(self) -> InputError:
        return InputError(f"{self.path}: got a damaged or cut-off archive, expected a complete one; copy it again")


class _Limited(io.RawIOBase):
    """A packed member as a stream that refuses to unpack more than it may."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit = stream, limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._limit - self._stream.tell()
        data = self._stream.read(left + 1 if size is None or size < 0 else min(size, left + 1))
        if len(data) > left:
            raise EOFError(f"more than {self._limit} bytes")
        return data

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 0 and offset > self._limit:
            raise EOFError(f"more than {self._limit} bytes")
        return self._stream.seek(offset, whence)
