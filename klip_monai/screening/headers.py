"""What the archive's index keeps of a file, read from its first bytes; runs in threads and processes."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from klip_monai.io.dicom.files import HEADER_BYTES, DicomFile, DicomFiles, Member, Readable
from klip_monai.io.dicom.head import read_head
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.dicom.scan import damage, what_it_is
from klip_monai.io.dicom.volumes import n_frames, place, text
from klip_monai.io.files.volume_head import claimed_slices
from klip_monai.io.formats import FILE_FORMATS
from klip_monai.io.kinds import (
    DAMAGED,
    DICOM,
    GZIP,
    INNER_ARCHIVE,
    NOT_DICOM,
    START_BYTES,
    UNREADABLE,
    VOLUME,
    begins_like_archive,
    kind_of,
)
from klip_monai.io.names import file_key

IMAGE, VOLUME_FILE, ARCHIVE = "image", "volume file", "archive"
"""What a file is; other words tell why it is passed over."""

TRAITS = (
    *("KVP", "SliceThickness", "ConvolutionKernel", "ImageType", "AcquisitionNumber"),
    *("TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase"),
)
"""Tags by which volumes of a series differ that may lie at places of their own."""

NO_UID = "no UID, "
"""How the key of a series without a UID begins."""

_VOLUME_SUFFIXES = tuple(FILE_FORMATS)
_NO_IMAGES = (NOT_DICOM, GZIP, INNER_ARCHIVE, "file packed by bzip2", "file packed by xz")
HEAD_BYTES = 2**15
_CHUNK = 256
_THREADS = 8
_CHUNKS_BEFORE_PROCESSES = 64


class Task(NamedTuple):
    """A file to read: the number of its folder, that folder, and the file in it as listed."""

    folder_id: int
    folder: str
    name: str
    size: int
    mtime: int

    @property
    def path(self) -> str:
        """Where it lies."""
        return os.path.join(self.folder, self.name) if self.name else self.folder


class Facts(NamedTuple):
    """What is kept of a file.

    Attributes:
        what: "image", "volume file", "archive", or why it is passed over.
        key: of its series; empty if it has none.
        instance: 63-bit hash of its SOPInstanceUID; of a damaged file that of its SeriesInstanceUID, 0 if unknown.
        frames: number of frames, or of slices of a volume file; 0 if unknown.
        position: hash of ImagePositionPatient; None without one.
        traits: hash of the tags that have one value throughout most volumes.
        series: modality, description, body part, rows, columns and date (YYYYMMDD) as this file has them.
    """

    what: str
    key: str = ""
    instance: int = 0
    frames: int = 0
    position: int | None = None
    traits: int = 0
    series: tuple[str, str, str, int, int, str] = ("", "", "", 0, 0, "")


def read_files(tasks: Iterable[Task], *, workers: int) -> Generator[tuple[Task, Facts], None, None]:
    """Read the first bytes of every file, in order.

    Waiting is shared by threads; parsing, from some ten thousand files on, by processes.

    Args:
        tasks: the files; taken as they are needed.
        workers: processes; 1 starts none.
    """
    chunks = _chunks(iter(tasks))
    for chunk in chunks if workers == 1 else islice(chunks, _CHUNKS_BEFORE_PROCESSES):
        yield from zip(chunk, read_chunk(chunk), strict=True)
    first = next(chunks, None)
    if first is None:
        return
    # A fresh interpreter holds none of this one's locks and open files.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: deque[tuple[Sequence[Task], Future[list[Facts]]]] = deque([(first, pool.submit(read_chunk, first))])
        for chunk in chunks:
            pending.append((chunk, pool.submit(read_chunk, chunk)))
            if len(pending) > 4 * workers:
                done, facts = pending.popleft()
                yield from zip(done, facts.result(), strict=True)
        for done, facts in pending:
            yield from zip(done, facts.result(), strict=True)


def read_chunk(tasks: Sequence[Task]) -> list[Facts]:
    """Read some files, several at a time."""
    parts = [tasks[start::_THREADS] for start in range(_THREADS)]
    facts: list[Facts] = [Facts(UNREADABLE)] * len(tasks)
    with quiet_pydicom():
        for start, part in enumerate(_threads().map(_read_part, parts)):
            facts[start::_THREADS] = part
    return facts


def read_members(path: Path) -> Iterator[tuple[DicomFile, Facts]]:
    """Read the first bytes of every file packed in an archive.

    Raises:
        InputError: it is damaged, or unpacks to more than 200 times its size.
    """
    with quiet_pydicom(), DicomFiles(path) as files:
        for file in files:
            if file.member is None:  # it only begins like an archive
                return
            if file.problem:
                yield file, Facts(file.problem)
                continue
            try:
                with files.open(file, limit=HEADER_BYTES) as stream:
                    yield file, _facts(stream, file.name, str(path), f"{path}\0{file.name}")
            except Exception:  # zip, tar and the decompressors raise many types
                yield file, Facts(DAMAGED)


def member_place(member: Member) -> tuple[int, int | None, int, int, bool]:
    """All of a member's fields but its size."""
    return member.offset, member.method, member.packed, member.crc, member.streamed


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS)


os.register_at_fork(after_in_child=_threads.cache_clear)  # a copy of this process has none of its threads


def _chunks(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    while chunk := list(islice(tasks, _CHUNK)):
        yield chunk


def _read_part(tasks: Sequence[Task]) -> list[Facts]:
    return [_read(task) for task in tasks]


def _read(task: Task) -> Facts:
    path = task.path
    try:
        with open(path, "rb", buffering=0) as stream:
            if path.lower().endswith(_VOLUME_SUFFIXES):
                return _volume_facts(stream, task)
            facts = _facts(stream, path, task.folder, path)
            if facts.what in _NO_IMAGES:
                stream.seek(0)
                return Facts(ARCHIVE) if begins_like_archive(stream.read(START_BYTES)) else facts
            return facts
    except OSError:
        return Facts(UNREADABLE)


def _facts(stream: Readable, name: str, folder: str, path: str) -> Facts:
    """What a file is, told from its beginning."""
    try:
        facts = _dicom_facts(stream, folder, path)
    except OSError:
        raise
    except Exception:  # pydicom raises many types on damaged files
        facts = Facts(DAMAGED)
    if facts is not None and facts.what != DAMAGED:
        return facts
    stream.seek(0)
    start = stream.read(START_BYTES) or b""
    if facts is None:
        return Facts(kind_of(start, name))
    what, series = damage(start, stream)
    return Facts(what, instance=hash63(series) if series else 0)


def _dicom_facts(stream: Readable, folder: str, path: str) -> Facts | None:
    """What a DICOM file is; None if it is none."""
    header = read_head(stream)
    if header is None:
        return None
    what = what_it_is(header)
    if what != IMAGE:
        return Facts(what)
    position = place(header)
    return Facts(
        what,
        text(header, "SeriesInstanceUID") or NO_UID + _digest(folder),
        hash63(text(header, "SOPInstanceUID") or path),
        n_frames(header),
        None if position is None else hash(position),
        crc32(repr([header.get(keyword) for keyword in TRAITS]).encode()),
        (
            text(header, "Modality"),
            text(header, "SeriesDescription"),
            text(header, "BodyPartExamined"),
            int(header.get("Rows") or 0),
            int(header.get("Columns") or 0),
            text(header, "SeriesDate") or text(header, "StudyDate"),
        ),
    )


def _volume_facts(stream: Readable, task: Task) -> Facts:
    """Tell a volume file by what its case is named after."""
    head = stream.read(HEAD_BYTES) or b""
    if (what := kind_of(head[:START_BYTES], task.path)) not in (VOLUME, DICOM):
        return Facts(what)
    key = file_key(stream, task.size, task.path)
    return Facts(VOLUME_FILE, key, hash63(key), claimed_slices(head))


def _digest(words: str, data: bytes = b"") -> str:
    return hashlib.sha256(os.fsencode(words) + b"\0" + data).hexdigest()


def hash63(words: str) -> int:
    """63 bits of a hash, the same wherever it is computed."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(words), digest_size=8).digest(), "big") >> 1
