"""Hold the header of a NRRD or MetaImage file against its data, before ITK believes it: ITK crashes on some.

Formats: NRRD 5 (Kindlmann, teem.sourceforge.net/nrrd/format.html) and MetaImage (ITK documentation, MetaIO).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.claims import MAX_RATIO, check_claim

_HEADER_BYTES = 2**20
_FIELD_BYTES = 500  # ITK copies fields that it cannot read into buffers of fixed size
_REMARK_BYTES = 30_000  # it keeps values of unknown fields of MetaImage up to 32,768
_MAX_AXES = 10
_FARTHEST_MM = 1e6
_NRRD_PLACES = ("spacings", "spacedirections", "spaceorigin", "measurementframe", "axismins", "axismaxs", "thicknesses")
_META_PLACES = (
    *("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin"),
    *("CenterOfRotation", "ElementSpacing", "ElementSize"),
)
# MetaImage has several names for each of these.
_META_SYNONYMS = (
    ("TransformMatrix", "Rotation", "Orientation"),
    ("ElementSpacing", "ElementSize"),
    ("Offset", "Position", "Origin"),
)
_META_FIELDS = (
    *("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "ElementDataFile", "HeaderSize", "Modality"),
    *("CompressedData", "CompressedDataSize", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "Color"),
    *("ObjectType", "ObjectSubType", "Name", "ID", "ParentID", "Comment", "AcquisitionDate", "TransformType"),
    *("AnatomicalOrientation", "DistanceUnits", "SequenceID", "ElementMin", "ElementMax", "ElementOriginalType"),
    *_META_PLACES,
)
_MM = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?")
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
}
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG"), 4),  # 4 or 8, as the machine that wrote them has it
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def check_nrrd(path: Path, *, max_ratio: int = MAX_RATIO) -> None:
    """Check dimension, sizes, type and data file of a NRRD header.

    Args:
        path: `.nrrd` or `.nhdr`.
        max_ratio: see :func:`klip_monai.io.claims.check_claim`.

    Raises:
        InputError: one of them is missing or makes no sense, or there is less data than they say.
    """
    header = _header(path, rb"\r?\n\r?\n")
    if not header.startswith("NRRD000"):
        raise InputError(f"{path}: got a file that does not begin like NRRD, expected NRRD000; save it again")
    fields: dict[str, str] = {}
    for line in header.splitlines()[1:]:
        # "key:=value" is a remark, "#" begins a comment.
        if ":=" not in line and not line.startswith("#"):
            name, _, value = _plain(line, path).partition(":")
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    _check_places(path, [fields.get(name, "") for name in _NRRD_PLACES])
    if "spaceunits" in fields:
        _check_units(path, re.findall(r'"([^"]*)"', fields["spaceunits"]) or fields["spaceunits"].split())
    _check_data(
        path,
        axes=fields.get("dimension", ""),
        sizes=fields.get("sizes", ""),
        value_bytes=_NRRD_BYTES.get(fields.get("type", "").lower(), 0),
        packed=fields.get("encoding", "").lower() not in ("raw", "txt", "text", "ascii", "hex"),
        data_file=fields.get("datafile"),
        max_ratio=max_ratio,
    )


def check_meta_image(path: Path, *, max_ratio: int = MAX_RATIO) -> None:
    """Check dimension, sizes, type and data file of a MetaImage header.

    Args:
        path: `.mha` or `.mhd`.
        max_ratio: see :func:`klip_monai.io.claims.check_claim`.

    Raises:
        InputError: one of them is missing or makes no sense, or there is less data than they say.
    """
    fields: dict[str, str] = {}
    for line in _header(path, rb"ElementDataFile[^\n]*\n").split("\n"):
        name, _, value = line.rstrip("\r").partition("=")
        if name.strip() in _META_FIELDS or len(line) > _REMARK_BYTES or len(name) > _FIELD_BYTES // 2:
            _plain(line.rstrip("\r"), path)
            fields[name.strip()] = value.strip()
    missing = [names[0] for names in _META_SYNONYMS if not any(name in fields for name in names)]
    if missing:
        raise InputError(
            f"{path}: got a header without {', '.join(missing)}, expected the full place in space: the side of the "
            "body would be a guess; save it again from 3D Slicer with the original series"
        )
    for names in (_META_SYNONYMS[0], _META_SYNONYMS[2]):
        given = {name: " ".join(fields[name].split()) for name in names if name in fields}
        if len(set(given.values())) > 1:
            raise InputError(f"{path}: got {', '.join(given)} that differ, expected one of them; remove the wrong one")
    _check_units(path, [fields.get("DistanceUnits", "")])
    _check_places(path, [fields.get(name, "") for name in _META_PLACES])
    data_file = fields.get("ElementDataFile", "")
    _check_data(
        path,
        axes=fields.get("NDims", ""),
        sizes=fields.get("DimSize", ""),
        value_bytes=_META_BYTES.get(fields.get("ElementType", ""), 0) * _count(fields, "ElementNumberOfChannels"),
        packed=fields.get("CompressedData", "").lower() in ("true", "1"),
        data_file=None if data_file.upper() == "LOCAL" else data_file,
        max_ratio=max_ratio,
    )


def _header(path: Path, end: bytes) -> str:
    """The lines before the data."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    found = re.search(end, start)
    header = start[: found.end() if found else None]
    try:
        return header.decode("utf-8")
    except UnicodeDecodeError:  # of remarks, which may be in any code; those of the fields that count are checked
        return header.decode("latin-1")


def _plain(line: str, path: Path) -> str:
    if len(line) > _FIELD_BYTES or not line.replace("\t", " ").isprintable():
        raise InputError(
            f"{path}: got a header line of {len(line)} characters or of no text, expected text of at most "
            f"{_FIELD_BYTES}; save it again"
        )
    return line


def _check_units(path: Path, units: Iterable[str]) -> None:
    """Refuse lengths that are not in mm: ITK takes them for mm."""
    others = [unit for unit in units if unit.strip().lower() not in _MM]
    if others:
        raise InputError(f"{path}: got lengths in {others[0][:40]!r}, expected mm; rewrite the header in mm")


def _check_places(path: Path, values: Iterable[str]) -> None:
    """Refuse numbers of mm that ITK cannot compute with: it hangs on some."""
    for word in re.findall(r"[^\s(),]+", " ".join(values)):
        try:
            usable = word == "none" or abs(float(word)) <= _FARTHEST_MM
        except ValueError:
            usable = False
        if not usable:
            raise InputError(
                f"{path}: got {word[:40]!r} in the place in space, expected numbers up to {_FARTHEST_MM:g}; save it "
                "again"
            )


def _count(fields: Mapping[str, str], name: str) -> int:
    value = fields.get(name, "1")
    return int(value) if re.fullmatch("[0-9]{1,3}", value) else 0


def _check_data(
    path: Path, *, axes: str, sizes: str, value_bytes: int, packed: bool, data_file: str | None, max_ratio: int
) -> None:
    """Refuse headers without a size, and data that cannot be as large as they say."""
    numbers = [int(size) for size in sizes.split() if re.fullmatch("[0-9]{1,10}", size)]
    if not value_bytes or axes != str(len(numbers)) or not 0 < len(numbers) <= _MAX_AXES or not all(numbers):
        raise InputError(
            f"{path}: got a header of {axes[:20] or 'no'} axes with sizes {sizes[:80] or 'missing'}, expected a size "
            "above 0 for each axis, and a known type of numbers; save it again"
        )
    claimed, held = math.prod(numbers) * value_bytes, _bytes_of_data(path, data_file)
    check_claim(claimed, held, str(path), packed=packed, max_ratio=max_ratio)


def _bytes_of_data(path: Path, data_file: str | None) -> int:
    """Size of the file that holds the data; of all files beside it where the header has a list or a pattern."""
    if data_file is None:
        return path.stat().st_size
    held = os.path.join(path.parent, data_file)  # os.path takes names of any length
    if os.path.exists(held) and not os.path.isfile(held):
        raise InputError(f"{path}: got {data_file!r} as data file, expected a file; save it again")
    if os.path.isfile(held):
        return os.path.getsize(held)
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
