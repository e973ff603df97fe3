"""DICOM files wherever they lie: in a folder, named by a DICOMDIR, or in a zip or tar archive that stays packed."""

from __future__ import annotations

import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.multival import MultiValue

from klip_monai.errors import InputError
from klip_monai.io.claims import MAX_RATIO, is_bomb
from klip_monai.io.folders import walk
from klip_monai.io.formats import FILE_FORMATS, suffix_of
from klip_monai.io.kinds import BAD_ARCHIVE, ENCRYPTED, LINK, NOT_THERE, START_BYTES, UNLISTED, begins_like_archive

Readable = BinaryIO | io.BufferedIOBase | io.RawIOBase

HEADER_BYTES = 64 * 2**20
"""A header may unpack to so much; that of an enhanced CT of thousands of frames takes a few MB."""

_FILE_BYTES = 4 * 2**30
_MAX_MEMBERS = 1_000_000
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# A zip of a version or method that Python does not know is not implemented.
_BROKEN = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError, lzma.LZMAError, zlib.error)
_DAMAGE = (*_BROKEN, MemoryError)  # the header of an LZMA stream may ask for any amount of memory


@dataclass(frozen=True)
class Member:
    """Where a file lies in an archive: enough to read it without the archive's table of contents.

    Attributes:
        offset: of its local header in a zip; of its data in a tar.
        size: bytes it unpacks to.
        method: compression of a zip's member; None for a tar's, which is stored as it is.
        packed: bytes it takes in the zip.
        crc: its check sum in the zip.
        streamed: whether the tar is compressed as a whole, so that what lies before must be unpacked first.
    """

    offset: int
    size: int
    method: int | None = None
    packed: int = 0
    crc: int = 0
    streamed: bool = False


@dataclass(frozen=True)
class DicomFile:
    """One file that may be DICOM.

    Attributes:
        name: path below the folder or inside the archive, for messages.
        path: the file on disk, or the archive it is packed in.
        member: its place in the archive; None for a file on disk.
        problem: why it cannot be read, in the words of :mod:`klip_monai.io.kinds`; it is not opened then.
    """

    name: str
    path: Path
    member: Member | None = None
    problem: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ListedFiles:
    """DICOM files named one by one, wherever they lie; small, picklable, and read by the path's readers.

    Attributes:
        name: what outputs and messages call them.
        files: the files, in any order; their names should not tell who the patient is.
        series_uid: SeriesInstanceUID that they had when they were listed; empty if they had none.
    """

    name: str
    files: tuple[DicomFile, ...]
    series_uid: str = ""

    def __str__(self) -> str:
        return self.name


class DicomFiles:
    """The files under a path, in the order they are fastest to read in; a context manager.

    Nothing is written to disk: members of archives are read as streams, so their names lead nowhere. Devices, links in
    archives, encrypted members and archives in archives are not opened.

    Args:
        source: folder (searched with its subfolders, those that links lead to, and the archives in them), DICOMDIR, zip
            or tar archive (also gzip, bzip2, xz), one file, or files listed one by one.

    Raises:
        InputError: an archive that is damaged, or unpacks to more than 200 times its size; a DICOMDIR that is damaged.
    """

    def __init__(self, source: Path | ListedFiles) -> None:
        self.path = source
        self._zip: zipfile.ZipFile | None = None
        self._tars: dict[Path, tarfile.TarFile] = {}
        if isinstance(source, Path) and source.is_file():
            try:
                if zipfile.is_zipfile(source):
                    self._zip = zipfile.ZipFile(source)
                elif tarfile.is_tarfile(source):
                    self._open_tar(source)
            except _DAMAGE as error:
                raise self._damaged() from error

    def __enter__(self) -> DicomFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in (self._zip, *self._tars.values()):
            if archive is not None:
                archive.close()

    @property
    def in_order(self) -> bool:
        """Whether the files can only be listed one at a time while they are opened: a tar is one stream."""
        return isinstance(self.path, Path) and self.path in self._tars

    def __iter__(self) -> Iterator[DicomFile]:
        if isinstance(self.path, ListedFiles):
            return iter(sorted(self.path.files, key=_place))
        if self._zip is not None:
            return self._zip_members(self.path, self._zip)
        if self._tars:
            self._tars.pop(self.path).close()  # read from the start again
            return self._tar_members(self.path, self._open_tar(self.path))
        if self.path.is_file():
            return self._referenced(self.path) if self.path.name.upper() == "DICOMDIR" else iter([_on_disk(self.path)])
        return self._walk(self.path)

    @contextmanager
    def open(self, file: DicomFile, *, limit: int = _FILE_BYTES) -> Iterator[BinaryIO]:
        """Open one file for reading; the stream can be sought in.

        Args:
            file: one of these files.
            limit: most bytes that a packed member may unpack to.

        Raises:
            EOFError: reading went beyond the limit.
            OSError, zipfile.BadZipFile: the file is gone or damaged.
        """
        member = file.member
        if member is not None and member.streamed:
            stream = self._open_tar(file.path).fileobj
            assert stream is not None
            yield io.BufferedReader(_Part(stream, member.offset, member.size, limit))
            return
        with file.path.open("rb") as disk:
            if member is None:
                yield disk
            elif member.method is None:
                yield io.BufferedReader(_Part(disk, member.offset, member.size, limit))
            else:
                yield io.BufferedReader(_Part(_unzip(disk, member), 0, member.size, limit))

    def _open_tar(self, path: Path) -> tarfile.TarFile:
        if path not in self._tars:
            self._tars[path] = tarfile.open(path)  # noqa: SIM115 (closed with this object)
        return self._tars[path]

    def _walk(self, folder: Path) -> Iterator[DicomFile]:
        root = folder.resolve()
        for listing in walk(root):
            if listing.problem:
                yield DicomFile(_below(listing.path, root), Path(listing.path), problem=UNLISTED)
            for entry in listing.entries:
                path = Path(listing.path, entry.name)
                yield from self._packed_in(path, DicomFile(_below(str(path), root), path))

    def _packed_in(self, path: Path, file: DicomFile) -> Iterator[DicomFile]:
        """The members of an archive in a folder; the file itself if it is none."""
        if suffix_of(path) in FILE_FORMATS or not _begins_like_archive(path):
            yield file
            return
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    members = list(self._zip_members(path, archive))
            elif tarfile.is_tarfile(path):
                if path in self._tars:
                    self._tars.pop(path).close()  # read from the start again
                members = list(self._tar_members(path, self._open_tar(path)))
            else:
                members = [file]
        except (*_DAMAGE, InputError):
            members = [replace(file, problem=BAD_ARCHIVE)]
        for member in members:
            yield member if member.member is None else replace(member, name=f"{file.name}/{member.name}")

    def _referenced(self, directory: Path) -> Iterator[DicomFile]:
        """Files that a DICOMDIR names (PS3.10, 8.6), if they lie below it; letter case may differ on disk."""
        try:
            records = dcmread(directory).get("DirectoryRecordSequence") or []
            named = [[str(part) for part in _several(record.get("ReferencedFileID"))] for record in records]
        except Exception as error:  # pydicom raises many types on damaged files
            raise InputError(
                f"{directory}: got a damaged DICOMDIR, expected a complete one; give the folder itself"
            ) from error
        root = directory.parent.resolve()
        for parts in filter(None, named):
            name, path = "/".join(parts), root.joinpath(*parts)
            for there in (path, root.joinpath(*(part.lower() for part in parts))):
                # Path.is_file fails on names longer than a file system allows.
                if os.path.isfile(there) and there.resolve().is_relative_to(root):
                    yield DicomFile(name, there)
                    break
            else:
                yield DicomFile(name, path, problem=NOT_THERE)

    def _zip_members(self, path: Path, archive: zipfile.ZipFile) -> Iterator[DicomFile]:
        members = archive.infolist()
        self._check_size(path, len(members), sum(member.file_size for member in members))
        for member in members:
            if not member.filename.endswith("/"):
                place = Member(
                    member.header_offset, member.file_size, member.compress_type, member.compress_size, member.CRC
                )
                problem = ENCRYPTED if member.flag_bits & 1 else ""
                yield DicomFile(str(PurePosixPath(member.filename)), path, place, problem)

    def _tar_members(self, path: Path, archive: tarfile.TarFile) -> Iterator[DicomFile]:
        total = count = 0
        streamed = not isinstance(archive.fileobj, io.BufferedReader)
        try:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or the headers of all members stay in memory
                total, count = total + member.size, count + 1
                self._check_size(path, count, total)
                if not member.isdir():
                    place = Member(member.offset_data, member.size, streamed=streamed)
                    problem = "" if member.isreg() and not member.issparse() else LINK
                    yield DicomFile(str(PurePosixPath(member.name)), path, place, problem)
        except _DAMAGE as error:
            raise self._damaged() from error

    def _check_size(self, path: Path, members: int, unpacked: int) -> None:
        """Refuse archives made to fill memory or time; CT packs to a tenth at best."""
        packed = max(1, path.stat().st_size)
        if members > _MAX_MEMBERS or is_bomb(unpacked, packed):
            raise InputError(
                f"{path}: got an archive of {members} members that unpacks to {unpacked / packed:.0f} times its "
                f"size, expected at most {MAX_RATIO} times; unpack it yourself if you trust it, and give the folder"
            )

    def _damaged(self) -> InputError:
        return InputError(f"{self.path}: got a damaged or cut-off archive, expected a complete one; copy it again")


def _several(value: Any) -> Sequence[Any]:
    """The values of a tag that pydicom gives one by itself, several as a list."""
    return [] if value is None else value if isinstance(value, (list, MultiValue)) else [value]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive, or was one before it was damaged."""
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except _DAMAGE:
        return True


def _begins_like_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return begins_like_archive(file.read(START_BYTES))
    except OSError:
        return False


def _below(path: str, root: Path) -> str:
    """Path below a folder, with / on every system; from there to where a link leads."""
    return Path(os.path.relpath(path, root)).as_posix()


def _on_disk(path: Path) -> DicomFile:
    return DicomFile(path.name, path)


def _place(file: DicomFile) -> tuple[Path, int]:
    return file.path, file.member.offset if file.member else 0


def _unzip(disk: BinaryIO, member: Member) -> zipfile.ZipExtFile:
    """The unpacked bytes of a zip's member, found by its local header (APPNOTE 4.3.7)."""
    disk.seek(member.offset)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(disk.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise zipfile.BadZipFile("no member there")
    disk.seek(name_bytes + extra_bytes, os.SEEK_CUR)
    info = zipfile.ZipInfo()
    info.compress_type, info.file_size, info.compress_size = member.method or 0, member.size, member.packed
    info.CRC = member.crc
    return zipfile.ZipExtFile(disk, "r", info, None)


class _Part(io.RawIOBase):
    """A part of a stream, as a stream of its own that refuses to give more than it may.

    Args:
        stream: what to read from; may be shared, one reader at a time.
        start: where the part begins.
        size: its length in bytes, as declared.
        limit: most bytes to give.
    """

    name = ""  # pydicom asks buffered readers for theirs

    def __init__(self, stream: Any, start: int, size: int, limit: int) -> None:
        self._stream, self._start, self._size, self._limit = stream, start, size, limit
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        if wanted and self._at >= self._limit:
            raise EOFError(f"more than {self._limit} bytes")
        self._stream.seek(self._start + self._at)
        data = self._stream.read(min(wanted, self._limit - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        place = offset + (0, self._at, self._size)[whence]
        if place > self._limit:
            raise EOFError(f"more than {self._limit} bytes")
        self._at = max(0, place)
        return self._at
