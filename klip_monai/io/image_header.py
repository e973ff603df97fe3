"""Hold the header of a NRRD or MetaImage file against its data, before ITK believes it: ITK crashes on some.

Formats: NRRD 5 (Kindlmann, teem.sourceforge.net/nrrd/format.html) and MetaImage (ITK documentation, MetaIO).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.claims import check_claim

_HEADER_BYTES = 2**20
_FIELD_BYTES = 500  # ITK copies fields that it cannot read into buffers of fixed size
_MAX_AXES = 10
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


def check_nrrd(path: Path) -> None:
    """Check dimension, sizes, type and data file of a NRRD header.

    Args:
        path: `.nrrd` or `.nhdr`.

    Raises:
        InputError: one of them is missing or makes no sense, or there is less data than they say.
    """
    header = _header(path, rb"\r?\n\r?\n")
    if not header.startswith("NRRD000"):
        raise InputError(f"{path}: got a file that does not begin like NRRD, expected NRRD000; save it again")
    fields: dict[str, str] = {}
    for line in header.splitlines()[1:]:
        # "key:=value" is a remark, "#" begins a comment.
        name, colon, value = line.partition(":")
        if colon and not value.startswith("=") and not line.startswith("#"):
            fields[name.strip().lower().replace(" ", "")] = _short(value, path)
    _check_data(
        path,
        axes=fields.get("dimension", ""),
        sizes=fields.get("sizes", ""),
        value_bytes=_NRRD_BYTES.get(fields.get("type", "").lower(), 0),
        packed=fields.get("encoding", "").lower() not in ("raw", "txt", "text", "ascii", "hex"),
        data_file=fields.get("datafile"),
    )


def check_meta_image(path: Path) -> None:
    """Check dimension, sizes, type and data file of a MetaImage header.

    Args:
        path: `.mha` or `.mhd`.

    Raises:
        InputError: one of them is missing or makes no sense, or there is less data than they say.
    """
    fields: dict[str, str] = {}
    for line in _header(path, rb"ElementDataFile[^\n]*\n").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = _short(value, path)
    data_file = fields.get("ElementDataFile", "")
    _check_data(
        path,
        axes=fields.get("NDims", ""),
        sizes=fields.get("DimSize", ""),
        value_bytes=_META_BYTES.get(fields.get("ElementType", ""), 0) * _count(fields, "ElementNumberOfChannels"),
        packed=fields.get("CompressedData", "").lower() in ("true", "1"),
        data_file=None if data_file.upper() == "LOCAL" else data_file,
    )


def _header(path: Path, end: bytes) -> str:
    """The lines before the data."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    found = re.search(end, start)
    return start[: found.end() if found else None].decode("latin-1")


def _short(value: str, path: Path) -> str:
    if len(value) > _FIELD_BYTES:
        raise InputError(
            f"{path}: got a header line of {len(value)} letters, expected at most {_FIELD_BYTES}; save it again"
        )
    return value.strip()


def _count(fields: Mapping[str, str], name: str) -> int:
    value = fields.get(name, "1")
    return int(value) if re.fullmatch("[0-9]{1,3}", value) else 0


def _check_data(path: Path, *, axes: str, sizes: str, value_bytes: int, packed: bool, data_file: str | None) -> None:
    """Refuse headers without a size, and data that cannot be as large as they say."""
    numbers = [int(size) for size in sizes.split() if re.fullmatch("[0-9]{1,10}", size)]
    if not value_bytes or axes != str(len(numbers)) or not 0 < len(numbers) <= _MAX_AXES or not all(numbers):
        raise InputError(
            f"{path}: got a header of {axes[:20] or 'no'} axes with sizes {sizes[:80] or 'missing'}, expected a size "
            "above 0 for each axis, and a known type of numbers; save it again"
        )
    check_claim(math.prod(numbers) * value_bytes, _bytes_of_data(path, data_file), str(path), packed=packed)


def _bytes_of_data(path: Path, data_file: str | None) -> int:
    """Size of the file that holds the data; of all files beside it where the header has a list or a pattern."""
    if data_file is None:
        return path.stat().st_size
    held = path.parent / data_file
    if held.exists() and not held.is_file():
        raise InputError(f"{path}: got {data_file!r} as data file, expected a file; save it again")
    if held.is_file():
        return held.stat().st_size
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
