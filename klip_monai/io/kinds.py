"""What a file is that holds no DICOM image, told from its first bytes; and which series may miss it."""

from __future__ import annotations

import re
import struct
from bisect import bisect
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from klip_monai.io.formats import FILE_FORMATS, suffix_of

START_BYTES = 512
"""So many of the first bytes tell."""

Order = tuple[tuple[int, str], ...]

DICOM = "DICOM"
DAMAGED, UNREADABLE, BAD_ARCHIVE = "damaged", "unreadable file", "damaged or oversized archive"
NOT_DICOM, EMPTY, ZEROS, GZIP = "not DICOM", "empty file", "file of zeros", "file packed by gzip"
ENCRYPTED, NOT_THERE, UNLISTED = "encrypted file", "file named by DICOMDIR and not there", "unreadable folder"
INNER_ARCHIVE, VOLUME = "archive in an archive", "NIfTI, NRRD or MetaImage file"
LINK = "link, device or sparse file in a tar"

SURELY_LOST = (DAMAGED, UNREADABLE, NOT_THERE)
"""Files that were DICOM, or nobody knows what: whatever their name, they may be slices of the series around them."""

PERHAPS_LOST = (NOT_DICOM, EMPTY, ZEROS, GZIP, ENCRYPTED, LINK)
"""Files that may be slices of the series around them if they are named like them."""

CLOSED = (ENCRYPTED, INNER_ARCHIVE, GZIP, BAD_ARCHIVE, UNLISTED)
"""What may hold images, and is not looked into."""

ADVICE = {
    ENCRYPTED: "unpack it with its password first",
    INNER_ARCHIVE: "unpack the outer one, or give the inner one itself",
    GZIP: "unpack them first (gunzip)",
    VOLUME: "give the .nii.gz, .nrrd or .mha file itself, unpacked",
}
"""Way out where a path holds nothing better."""

_ARCHIVE_STARTS = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_STARTS = {
    b"PK\3\4": INNER_ARCHIVE,
    b"BZh": "file packed by bzip2",
    b"\xfd7zXZ\0": "file packed by xz",
    b"\x1f\x8b": GZIP,
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"Rar!\x1a\x07": "RAR archive",
    b"\0\5\x16\7": "companion file of macOS (._)",
    b"NRRD000": VOLUME,
    b"ObjectType": VOLUME,
}
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US OB OW UN SQ".split())
_FIRST = struct.Struct("<HHI")
_MAX_FIRST = 1024  # bytes of a value of the first element
_COUNTER = 6  # digits; longer numbers are UIDs and dates


def begins_like_dicom(start: bytes) -> bool:
    """Whether a file begins as DICOM does: with preamble, or, as old archives wrote it, with the first element."""
    if start[128:132] == b"DICM":
        return True
    if len(start) < _FIRST.size:
        return False
    group, element, length = _FIRST.unpack_from(start)
    little = group in (2, 8) and element <= 0x0100
    big = start[:2] in (b"\0\2", b"\0\x08")
    return ((little or big) and start[4:6] in _VRS) or (little and length <= _MAX_FIRST and length % 2 == 0)


def begins_like_archive(start: bytes) -> bool:
    """Whether a file may be a zip or tar archive."""
    return start.startswith(_ARCHIVE_STARTS) or start[257:262] == b"ustar"


def kind_of(start: bytes, name: str) -> str:
    """What a file is by its beginning; a volume's format goes by its suffix, too.

    Args:
        start: its first bytes, :data:`START_BYTES` of them if it has so many.
        name: of the file.

    Returns:
        :data:`DICOM`, :data:`VOLUME`, or why it is passed over.
    """
    if begins_like_dicom(start):
        return DICOM
    if not start:
        return EMPTY
    if start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0"):
        return VOLUME
    what = ZEROS if not any(start) else INNER_ARCHIVE if start[257:262] == b"ustar" else NOT_DICOM
    what = next((kind for begin, kind in _STARTS.items() if start.startswith(begin)), what)
    return VOLUME if what in (GZIP, NOT_DICOM) and suffix_of(PurePath(name)) in FILE_FORMATS else what


class Neighbours:
    """The images of a folder, to ask which series a file there may belong to.

    Args:
        images: the series of each image, by its name without the folder.
    """

    def __init__(self, images: Mapping[str, str]) -> None:
        self._all = set(images.values())
        self._by_shape: dict[str, list[tuple[Order, str]]] = {}
        for name, series in images.items():
            self._by_shape.setdefault(_shape(name), []).append((_natural(name), series))
        for like in self._by_shape.values():
            like.sort()

    def owners(self, name: str, what: str) -> set[str]:
        """Which series may miss a file that cannot be read.

        Args:
            name: of the file, without its folder.
            what: what it is; see :data:`SURELY_LOST` and :data:`PERHAPS_LOST`.

        Returns:
            Series: those of the next images before and behind it where images are counted, else all that have images
            named like it. A file of another name counts for all if it was DICOM, and for none if it was not.
        """
        shape = _shape(name)
        if like := self._by_shape.get(shape):
            at = bisect(like, (_natural(name), ""))
            return {series for _, series in (like[max(0, at - 1) : at + 1] if _is_counted(name) else like)}
        is_named_dicom = name.lower().endswith(_DICOM_SUFFIXES) and not name.startswith(".")
        return set(self._all) if what in SURELY_LOST or is_named_dicom else set()


def summed(kinds: Iterable[tuple[str, int]]) -> str:
    """Counts of files of some kinds in a message."""
    return ", ".join(f"{count} x {'damaged file' if what == DAMAGED else what}" for what, count in kinds)


def _shape(name: str) -> str:
    """What names of one series have in common: all but their numbers, of whatever base."""
    name = name.lower().removesuffix(".gz")
    if re.fullmatch(r"[0-9a-f-]{16,}", name.partition(".")[0]):
        return "hash" + name.partition(".")[2]
    return re.sub(r"\d[\d.]*", "#", name)


def _is_counted(name: str) -> bool:
    numbers = re.findall(r"\d+", name)
    return bool(numbers) and not _shape(name).startswith("hash") and max(map(len, numbers)) <= _COUNTER


def _natural(name: str) -> Order:
    """Sorts 10 behind 9."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
