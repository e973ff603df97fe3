"""The few tags that tell what a DICOM file is, from its first bytes: an archive has millions of files."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from pydicom import dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from klip_monai.io.dicom.files import Readable
from klip_monai.io.dicom.volumes import Header
from klip_monai.io.kinds import begins_like_dicom

HEAD_BYTES = 16 * 2**10
"""So much of a file is read at first; the tags of most images lie within."""

_MORE_BYTES = 2**20
_TAGS = {
    0x00080005: "SpecificCharacterSet",
    0x00080008: "ImageType",
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080020: "StudyDate",
    0x00080021: "SeriesDate",
    0x00080060: "Modality",
    0x0008103E: "SeriesDescription",
    0x00180015: "BodyPartExamined",
    0x00180050: "SliceThickness",
    0x00180060: "KVP",
    0x00181210: "ConvolutionKernel",
    0x0020000E: "SeriesInstanceUID",
    0x00200012: "AcquisitionNumber",
    0x00200032: "ImagePositionPatient",
    0x00200100: "TemporalPositionIdentifier",
    0x00209241: "NominalPercentageOfCardiacPhase",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
}
_LAST = max(_TAGS)
_BINARY = (0x00280010, 0x00280011)
_LISTS = ("ImageType", "ImagePositionPatient")
_TRANSFER_SYNTAX, _MEDIA_SOP_CLASS = 0x00020010, 0x00020002
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_EXPLICIT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<I")


class _NotPlainError(Exception):
    """Something that is left to pydicom."""


def read_head(stream: Readable) -> Header | None:
    """Read the tags that tell what a file is and which series it belongs to.

    Plain little-endian headers are read here, in a tenth of the time pydicom takes; all others by pydicom.

    Args:
        stream: the file, at its start.

    Returns:
        Tags by keyword, those of :func:`klip_monai.io.dicom.scan.what_it_is` among them; None if it is not DICOM.

    Raises:
        Exception: a damaged header; pydicom raises many types.
    """
    data = stream.read(HEAD_BYTES) or b""
    if not begins_like_dicom(data):
        return None
    for wanted, more in ((HEAD_BYTES, _MORE_BYTES), (HEAD_BYTES + _MORE_BYTES, 0)):
        complete = len(data) < wanted
        try:
            return parse_head(data, complete=complete)
        except (_NotPlainError, struct.error):
            if complete or not more:
                break
            data += stream.read(more) or b""
    stream.seek(0)
    return dcmread(cast(BinaryIO, stream), force=True, stop_before_pixels=True, specific_tags=list(_TAGS.values()))


def parse_head(data: bytes, *, complete: bool) -> Mapping[str, Any]:
    """Read the tags of a plain little-endian header (PS3.5, 7.1).

    Args:
        data: the first bytes of a file, from its preamble.
        complete: whether that is the whole file.

    Returns:
        Tags by keyword; those without a value are left out.

    Raises:
        Exception: more bytes, or pydicom, are needed.
    """
    if data[128:132] != b"DICM":
        raise _NotPlainError
    meta: dict[int, bytes] = {}
    start = _elements(data, 132, explicit=True, last=0x0002FFFF, wanted=(_MEDIA_SOP_CLASS, _TRANSFER_SYNTAX), into=meta)
    syntax = meta.get(_TRANSFER_SYNTAX, b"").rstrip(b"\0 ").decode("ascii")
    if not syntax or syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        raise _NotPlainError
    found: dict[int, bytes] = {}
    end = _elements(data, start, explicit=syntax != ImplicitVRLittleEndian, last=_LAST, wanted=_TAGS, into=found)
    if end >= len(data) and not (complete and end == len(data)):
        raise _NotPlainError
    if 0x00080016 not in found and _MEDIA_SOP_CLASS in meta:
        found[0x00080016] = meta[_MEDIA_SOP_CLASS]
    return _decode(found)


def _elements(
    data: bytes,
    at: int,
    *,
    explicit: bool,
    last: int,
    wanted: Mapping[int, str] | tuple[int, ...],
    into: dict[int, bytes],
) -> int:
    """Collect the values of wanted elements; gives where the first element after `last` begins, or the end."""
    depth, previous, end = 0, 0, len(data)
    while at < end:
        group, element, vr, short = _EXPLICIT.unpack_from(data, at)
        tag = group << 16 | element
        if not depth:
            if tag > last:
                return at
            if tag <= previous:
                raise _NotPlainError
            previous = tag
        if not explicit or group == 0xFFFE:
            (length,) = _LENGTH.unpack_from(data, at + 4)
            value = at + 8
        elif vr in _SHORT:
            length, value = short, at + 8
        elif vr in _LONG:
            (length,) = _LENGTH.unpack_from(data, at + 8)
            value = at + 12
            if length == _UNDEFINED and vr != b"SQ":
                raise _NotPlainError
        else:
            raise _NotPlainError
        # A sequence or item of undefined length lasts to its delimiter (PS3.5, 7.5).
        if length == _UNDEFINED:
            depth, at = depth + 1, value
            continue
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth, at = depth - 1, value
            continue
        at = value + length
        if not depth and tag in wanted and length:
            into[tag] = data[value:at]
    return at


def _decode(found: Mapping[int, bytes]) -> dict[str, Any]:
    """Values as pydicom would give them, near enough: text, numbers of rows and columns, and lists of text."""
    header: dict[str, Any] = {}
    charset = found.get(0x00080005, b"").decode("ascii").strip("\0 ")
    for tag, value in found.items():
        keyword = _TAGS[tag]
        if tag in _BINARY:
            (header[keyword],) = struct.unpack("<H", value)
            continue
        if value.isascii():
            text = value.decode("ascii")
        else:
            text = decode_bytes(value, convert_encodings(charset.split("\\") if charset else None), set())
        text = text.rstrip("\0 ")
        header[keyword] = text.split("\\") if keyword in _LISTS else text
    return header
