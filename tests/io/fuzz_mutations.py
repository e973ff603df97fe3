"""Ways to damage a file, from blind to sly; every one is drawn from a generator and can be drawn again."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from fuzz_corpus import Specimen, tarred, zipped
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

Draw = np.random.Generator
Files = dict[str, bytes]

_INTEGERS = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, -1, -2)
_TEXTS = (
    *("", "0", "-0", "1", "2", "-1", "-0.5", "1e-320", "1e308", "-1e308", "1e400", "nan", "inf", "-inf", "0x10", "1e5"),
    *("32768", "65535", "65536", "2147483648", "99999999999999999999", "1\\2", "1\\2\\3", "1\\2\\3\\4\\5\\6"),
    *("1e308\\-1e308\\1e308", "nan\\nan\\nan", "0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0", "1e-300\\1e-300"),
    *("HU", "US", "MR", "CT", "LOCALIZER", "Ä ö \u4e2d", "\0\0", "0." + "1" * 300, "a\nb", "\x1b[31m"),
    *("x" * 70_000, "y" * 450, "1e9 " * 120, "../../etc/passwd"),
    *("/dev/zero", "1.2.3", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.1.3.10", "ISO 2022 IR 87", "ISO_IR 999"),
)  # fmt: skip
_NUMBERS_IN_TEXT = (
    *("0", "-1", "1", "1e308", "-1e308", "1e-320", "nan", "inf", "2147483647", "2147483648", "4294967296", "1000000"),
    *("99999999999999999999", "", "x", "/dev/zero", "..", "1 1", "LIST", "none", "50000", "65536"),
)  # fmt: skip
_VITAL = [
    tag_for_keyword(word)
    for word in (
        *("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *(
            "SamplesPerPixel",
            "PhotometricInterpretation",
            "PixelSpacing",
            "ImagePositionPatient",
            "PlanarConfiguration",
        ),
        *("ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue"),
        *("PixelPaddingRangeLimit", "PixelData", "SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality"),
        *("ImageType", "SpecificCharacterSet", "FrameOfReferenceUID", "AcquisitionNumber", "SeriesDescription"),
        *("ConvolutionKernel", "ModalityLUTSequence", "KVP", "ReferencedFileID", "DirectoryRecordSequence"),
        *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "StudyDate", "BodyPartExamined"),
    )
]
_IDENTITY = (0x00100010, 0x00100020)  # may not be moved to tags that messages do quote
_VRS = [
    "AE",
    "AS",
    "AT",
    "CS",
    "DA",
    "DS",
    "DT",
    "FL",
    "FD",
    "IS",
    "LO",
    "LT",
    "OB",
    "OF",
    "OW",
    "PN",
    "SH",
    "SL",
    "SQ",
    "SS",
    "ST",
    "TM",
    "UI",
    "UL",
    "UN",
    "US",
    "UT",
]
_SYNTAXES = [
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless, "1.2.3", ""),
    *(uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.DeflatedExplicitVRLittleEndian),
    *(uid.HTJ2KLossless, uid.MPEG2MPML, "1.2.840.10008.1.2.1.98"),
]
_DEPTHS = (1, 3, 30, 300, 3000)


def mutated(specimen: Specimen, draw: Draw) -> tuple[Files, str]:
    """Damage a specimen in one to three ways.

    Args:
        specimen: what is sound.
        draw: generator to draw from.

    Returns:
        Its files, and what was done to them in a few words.
    """
    files, done = dict(specimen.files), []
    for _ in range(int(draw.choice([1, 1, 1, 2, 3]))):
        names = sorted(files)
        if specimen.kind == "dicom" and len(names) > 1 and draw.random() < 0.6:
            chosen = names  # or the first check, that all slices are alike, is the only one that is met
        else:
            chosen = [specimen.target] if specimen.target and draw.random() < 0.6 else [str(draw.choice(names))]
        key = int(draw.integers(2**62))
        for name in chosen:
            files[name], what = _mutate(name, files[name], np.random.default_rng(key))
        done.append(f"{what} in {chosen[0] if len(chosen) == 1 else 'all'}")
    return files, ", ".join(done)


def _mutate(name: str, content: bytes, draw: Draw) -> tuple[bytes, str]:
    if draw.random() < 0.65:
        try:
            return _knowing(name, content, draw)
        except Exception:
            pass
    mutate = _BLIND[int(draw.integers(len(_BLIND)))]
    return mutate(content, draw), mutate.__name__.strip("_")


def _knowing(name: str, content: bytes, draw: Draw) -> tuple[bytes, str]:
    """Edits that know the format."""
    if name.endswith(".gz"):
        inner, what = _mutate(name.removesuffix(".gz"), gzip.decompress(content), draw)
        return gzip.compress(inner, 1, mtime=0), f"packed {what}"
    if name.endswith(".nii"):
        return _nifti_field(content, draw), "nifti field"
    if name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        return _text_header(content, draw), "header line"
    if name.endswith(".json"):
        return _json_value(content, draw), "json value"
    if name.endswith((".zip", ".npz")):
        return _zip(content, draw)
    if name.endswith(".tar"):
        return _tar(content, draw)
    if name.endswith(".npy"):
        return _text_number(content, draw), "npy header"
    if name.endswith((".mat", ".h5", ".hdf5", ".raw", ".zraw")):
        return _integer(content, draw), "integer"
    edit = _DICOM[int(draw.integers(len(_DICOM)))]
    return edit(content, draw), edit.__name__.strip("_")


def _place(content: bytes, draw: Draw) -> int:
    """Somewhere, half of the time where headers are."""
    start = 132 if content[128:132] == b"DICM" else 0
    end = min(len(content), start + 1024) if draw.random() < 0.5 else len(content)
    return int(draw.integers(start, end)) if end > start else 0


def _flips(content: bytes, draw: Draw) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(draw.choice([1, 1, 2, 4, 16]))):
        if damaged:
            damaged[_place(content, draw)] ^= 1 << int(draw.integers(8))
    return bytes(damaged)


def _noise(content: bytes, draw: Draw) -> bytes:
    at, size = _place(content, draw), int(draw.integers(1, 64))
    return content[:at] + draw.bytes(size) + content[at + size :]


def _integer(content: bytes, draw: Draw) -> bytes:
    at, width = _place(content, draw), int(draw.choice([1, 2, 4, 8]))
    value = _INTEGERS[int(draw.integers(len(_INTEGERS)))] % 256**width
    return content[:at] + value.to_bytes(width, str(draw.choice(["little", "big"]))) + content[at + width :]  # type: ignore[arg-type]


def _truncation(content: bytes, draw: Draw) -> bytes:
    return content[: _place(content, draw)]


def _deletion(content: bytes, draw: Draw) -> bytes:
    at = _place(content, draw)
    return content[:at] + content[at + int(draw.choice([1, 2, 8, 100, 1000])) :]


def _insertion(content: bytes, draw: Draw) -> bytes:
    at, size = _place(content, draw), int(draw.choice([1, 2, 8, 100, 5000]))
    filling = draw.bytes(size) if draw.random() < 0.5 else bytes([int(draw.choice([0, 255, 32]))]) * size
    return content[:at] + filling + content[at:]


def _repetition(content: bytes, draw: Draw) -> bytes:
    at, size = _place(content, draw), int(draw.choice([4, 16, 200, 2000]))
    return content[:at] + content[at : at + size] * int(draw.integers(1, 20)) + content[at:]


_BLIND = (_flips, _noise, _integer, _truncation, _deletion, _insertion, _repetition)


def _written(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def _elements(dataset: pydicom.Dataset) -> Iterator[tuple[pydicom.Dataset, BaseTag]]:
    for tag in dataset.keys():  # noqa: SIM118 (iterating converts the values)
        yield dataset, tag
        if dataset.get_item(tag).VR == "SQ":
            for item in dataset[tag].value:
                yield from _elements(item)


def _chosen(content: bytes, draw: Draw) -> tuple[pydicom.Dataset, pydicom.Dataset, BaseTag]:
    """A dataset, and one of its elements or of an item's; mostly one that the reader looks at."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    found = [(part, tag) for part, tag in _elements(dataset) if tag not in _IDENTITY]
    vital = [(part, tag) for part, tag in found if tag in _VITAL]
    choice = vital if vital and draw.random() < 0.8 else found
    return dataset, *choice[int(draw.integers(len(choice)))]


def _raw(part: pydicom.Dataset, tag: BaseTag, vr: str, value: bytes) -> None:
    syntax = part.original_encoding
    value += b" " * (len(value) % 2)
    part[tag] = RawDataElement(tag, vr, len(value), value, 0, bool(syntax[0]), bool(syntax[1]))


def _element_lost(content: bytes, draw: Draw) -> bytes:
    dataset, part, tag = _chosen(content, draw)
    del part[tag]
    return _written(dataset)


def _element_value(content: bytes, draw: Draw) -> bytes:
    dataset, part, tag = _chosen(content, draw)
    vr = part[tag].VR
    if vr in ("US", "SS", "UL", "OW"):
        value = (_INTEGERS[int(draw.integers(len(_INTEGERS)))] % 65536).to_bytes(2, "little") * int(draw.integers(1, 4))
    else:
        value = _TEXTS[int(draw.integers(len(_TEXTS)))].encode()
    _raw(part, tag, vr, value)
    return _written(dataset)


def _element_kind(content: bytes, draw: Draw) -> bytes:
    dataset, part, tag = _chosen(content, draw)
    value = _TEXTS[int(draw.integers(len(_TEXTS)))].encode() if draw.random() < 0.5 else draw.bytes(8)
    _raw(part, tag, str(draw.choice(_VRS)), value)
    return _written(dataset)


def _element_moved(content: bytes, draw: Draw) -> bytes:
    dataset, part, tag = _chosen(content, draw)
    target = BaseTag(_VITAL[int(draw.integers(len(_VITAL)))] or tag)
    element = part[tag]
    del part[tag]
    part[target] = pydicom.DataElement(target, element.VR, element.value)
    return _written(dataset)


def _element_nested(content: bytes, draw: Draw) -> bytes:
    dataset, part, tag = _chosen(content, draw)
    item = pydicom.Dataset()
    if draw.random() < 0.7:
        item[tag] = part[tag]
    part[tag] = pydicom.DataElement(tag, "SQ", [item] * int(draw.choice([0, 1, 1, 2000])))
    return _written(dataset)


def _sequence_tower(content: bytes, draw: Draw) -> bytes:
    """Sequences of undefined length in one another, not all of them closed."""
    at = content.find(b"\x28\0\x10\0")
    depth = int(draw.choice(_DEPTHS))
    opened = b"\x28\0\x08\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return content[:at] + opened * depth + closed * (depth - int(draw.integers(2))) + content[at:]


def _length_lie(content: bytes, draw: Draw) -> bytes:
    """Another VR or length where an element says its own."""
    tag = int(_VITAL[int(draw.integers(len(_VITAL)))] or 0)
    at = content.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
    if at < 0:
        raise ValueError("no such element")
    offset, width = ((4, 2), (4, 4), (6, 2), (8, 4))[int(draw.integers(4))]
    value = _INTEGERS[int(draw.integers(len(_INTEGERS)))] % 256**width
    return content[: at + offset] + value.to_bytes(width, "little") + content[at + offset + width :]


def _syntax(content: bytes, draw: Draw) -> bytes:
    """Pixels and header declared to be encoded otherwise than they are."""
    old = str(pydicom.dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID).encode()
    new = str(_SYNTAXES[int(draw.integers(len(_SYNTAXES)))]).encode()
    at = content.index(b"\x02\0\x10\0UI") + 6
    size = struct.unpack_from("<H", content, at)[0]
    padded = new + b"\0" * (len(new) % 2)
    assert content[at + 2 :].startswith(old)
    damaged = content[:at] + struct.pack("<H", len(padded)) + padded + content[at + 2 + size :]
    # The length of the group has to follow, or nothing behind it is found.
    group = content.index(b"\x02\0\0\0UL\x04\0") + 8
    (length,) = struct.unpack_from("<I", content, group)
    return damaged[:group] + struct.pack("<I", length + len(padded) - size) + damaged[group + 4 :]


def _pixels(content: bytes, draw: Draw) -> bytes:
    """Damage behind the tag of the pixels only."""
    at = content.rindex(b"\xe0\x7f\x10\0") if draw.random() < 0.9 else content.rindex(b"\x7f\xe0\0\x10")
    mutate = _BLIND[int(draw.integers(len(_BLIND)))]
    return content[: at + 8] + mutate(content[at + 8 :], draw)


_DICOM: tuple[Callable[[bytes, Draw], bytes], ...] = (
    *(_element_lost, _element_value, _element_value, _element_value, _element_kind, _element_moved, _element_nested),
    *(_sequence_tower, _length_lie, _syntax, _pixels, _pixels, _pixels),
)


def _nifti_field(content: bytes, draw: Draw) -> bytes:
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    field = str(draw.choice(["dim", "pixdim", "datatype", "bitpix", "vox_offset", *header.dtype.names]))
    values = header[field].reshape(-1)
    if values.dtype.kind == "S":
        values[0] = draw.bytes(int(values.dtype.itemsize))
    elif values.dtype.kind == "f":
        values[int(draw.integers(len(values)))] = draw.choice([0, -1, np.nan, np.inf, 1e38, -1e38, 1e-40, 3.5, 1e9])
    else:
        bits = 8 * values.dtype.itemsize
        integer = _INTEGERS[int(draw.integers(len(_INTEGERS)))]
        for place in draw.choice(len(values), int(draw.integers(1, min(4, len(values)) + 1)), replace=False):
            values[place] = np.array(integer % 2**bits, f"u{bits // 8}").astype(values.dtype)
    header[field] = values.reshape(header[field].shape)
    return header.tobytes() + content[348:]


def _text_header(content: bytes, draw: Draw) -> bytes:
    end = re.search(rb"\n\n|ElementDataFile[^\n]*\n|\Z", content)
    assert end is not None
    lines = content[: end.end()].split(b"\n")
    number = int(draw.integers(len(lines)))
    other = int(draw.integers(len(lines)))
    act = int(draw.integers(5))
    if act == 0:
        del lines[number]
    elif act == 1:
        lines[number], lines[other] = lines[other], lines[number]
    elif act == 2:
        lines.insert(number, lines[other])
    elif act == 3:
        key, separator, _ = lines[number].partition(b"=" if b"=" in lines[number] else b":")
        lines[number] = key + separator + b" " + _TEXTS[int(draw.integers(len(_TEXTS)))].encode()
    else:
        lines[number] = _text_number(lines[number], draw)
    return b"\n".join(lines) + content[end.end() :]


def _text_number(content: bytes, draw: Draw) -> bytes:
    """One of the first numbers of a text replaced, or all of the same number of digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:200]))
    number = found[int(draw.integers(len(found)))]
    value = _NUMBERS_IN_TEXT[int(draw.integers(len(_NUMBERS_IN_TEXT)))].encode()
    return content[: number.start()] + value + content[number.end() :]


def _json_value(content: bytes, draw: Draw) -> bytes:
    fields = json.loads(content)
    name = str(
        draw.choice([*fields, "views", "detectors", "offset_mm", "mu_window", "mu_water", "dataset", "surprise"])
    )
    absurd: tuple[Any, ...] = (
        *(None, True, "", "a\nb", [], {}, [[]], 0, -1, 0.5, 5, 8, 1e308, float("nan"), float("inf"), 10**400, 10**9),
        *([1, 2], [2, 1], [1, None], [float("nan")] * 5, ["a"] * 5, {"start": 0}, {"start": 1e308, "step": 1e308}),
        *([0] * 5, [0, 1e308, 1, 2, 3], [16, 16.5], [-1, 4], [10**9, 10**9], ["nan", 1], "fan", "parallel", "sinogram"),
    )
    value = absurd[int(draw.integers(len(absurd)))]
    if draw.random() < 0.1:
        return b'{"angles": ' + b"[" * 100_000
    if isinstance(fields.get(name), dict) and draw.random() < 0.5:
        fields[name][str(draw.choice(sorted(fields[name])))] = value
    else:
        fields[name] = value
    return json.dumps(fields).encode()


def _zip(content: bytes, draw: Draw) -> tuple[bytes, str]:
    act = int(draw.integers(3))
    if act == 0:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        name = str(draw.choice(sorted(files)))
        files[name], what = _mutate(name, files[name], draw)
        return zipped(files), f"packed {what}"
    # Local header, central directory, or its end (APPNOTE 4.3): sizes, offsets, counts and methods that lie.
    signature = (b"PK\3\4", b"PK\1\2", b"PK\5\6")[int(draw.integers(3))]
    places = [match.start() for match in re.finditer(re.escape(signature), content)]
    at = places[int(draw.integers(len(places)))] + int(draw.integers(4, 46))
    width = int(draw.choice([2, 4]))
    value = _INTEGERS[int(draw.integers(len(_INTEGERS)))] % 256**width
    return content[:at] + value.to_bytes(width, "little") + content[at + width :], "zip field"


def _tar(content: bytes, draw: Draw) -> tuple[bytes, str]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
        files = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    if draw.random() < 0.5:
        name = str(draw.choice(sorted(files)))
        files[name], what = _mutate(name, files[name], draw)
        return tarred(files), f"packed {what}"
    header = bytearray(content[(at := members[int(draw.integers(len(members)))].offset) : at + 512])
    start, size = ((0, 100), (124, 12), (124, 12), (156, 1), (257, 8), (345, 155))[int(draw.integers(6))]
    value = draw.choice(
        [b"", b"77777777777\0", b"-1", b"\x80" + b"\xff" * 11, b"00000000010\0", b"x", b"5", b"S", b"L"]
    )
    header[start : start + size] = bytes(value)[:size].ljust(size, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + 512 :], "tar field"
