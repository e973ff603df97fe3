"""Sort DICOM files into volumes from their headers alone: by series, and within a series by phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
)

from klip_monai.errors import printable
from klip_monai.io.dicom_files import HEADER_BYTES, DicomFile, DicomFiles
from klip_monai.io.dicom_pixels import PIXEL_TAGS, frame_headers

Header = Dataset | Mapping[str, Any]
"""A dataset, or some of its tags by keyword."""

PHASE_TAGS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "TemporalPositionTimeOffset"),
    *("NominalPercentageOfCardiacPhase", "TriggerTime", "KVP", "ConvolutionKernel", "ImageType", "FrameType"),
    *("StackID", "AcquisitionNumber", "FrameAcquisitionNumber", "AcquisitionTime"),
)
"""Tags that tell the volumes of one series apart, the most telling first."""

_HEADER_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "FrameOfReferenceUID"),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", *PIXEL_TAGS),
    *("ImagePositionPatient", "ImageOrientationPatient", "ContrastBolusAgent", *PHASE_TAGS),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
]
_INTEGERS = ("Rows", "Columns", *PIXEL_TAGS)
_DISPENSABLE = ("SeriesDescription", "ContrastBolusAgent", *PHASE_TAGS)
_ENHANCED_CT = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# Objects that come with a CT series and show no cross-section of it.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_THREADS = 8
_CODE = 16  # letters of a CS (PS3.5, 6.2)
_SHOWN = 80  # letters; UIDs and descriptions have up to 64 (PS3.5, 6.2)


@dataclass
class Scan:
    """What the headers under a path say.

    Attributes:
        volumes: headers of the slices (single-frame files, or frames of enhanced CT) by series UID; a series of
            several volumes counts as UID#1, UID#2, ...
        passed_over: what else was there, and how often.
        damaged: names of DICOM files whose header cannot be read.
    """

    volumes: dict[str, list[Dataset]] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)


def scan_headers(files: DicomFiles) -> Scan:
    """Read the header of every file, several at a time, and sort out those that hold no cross-sections.

    Args:
        files: the files, open.

    Returns:
        Volumes in the order of their UIDs; headers in the order of the files. Each header has a `source`, its
        :class:`DicomFile`, that file's name as its `filename`, and a `frame`, its number in the file.
    """
    scan, series = Scan(), dict[str, list[Dataset]]()
    for file, (what, headers) in _read_all(files):
        if headers:
            # De-identified files may have lost their UIDs; the geometry checks tell series without one apart.
            series.setdefault(text(headers[0], "SeriesInstanceUID"), []).extend(headers)
        elif what == "damaged":
            scan.damaged.append(file.name)
        else:
            scan.passed_over[what] += 1
    for uid, headers in sorted(series.items()):
        parts = _phases(headers)
        for number, part in enumerate(parts, start=1):
            scan.volumes[uid if len(parts) == 1 else f"{uid}#{number}"] = part
    return scan


def describe(key: str, headers: Sequence[Dataset]) -> str:
    """One volume in a message."""
    first, n_slices = headers[0], sum(map(n_frames, headers))
    modality, description = text(first, "Modality"), text(first, "SeriesDescription")
    return (
        f"{key[:_SHOWN] or 'no UID'} ({modality[:_SHOWN] or 'no modality'}, "
        f"{description[:_SHOWN] or 'no description'}, {n_slices} slices)"
    )


def phase_tag(headers: Sequence[Dataset]) -> str:
    """First tag in which headers of slices at one place differ, or "" if none does."""
    return next((tag for tag in PHASE_TAGS if len({text(header, tag) for header in headers}) > 1), "")


def sop_class(header: Header) -> str:
    """SOP class of a file; de-identified files sometimes keep it in the file meta group only."""
    meta = getattr(header, "file_meta", None)
    media = meta.get("MediaStorageSOPClassUID", "") if meta is not None else ""
    return str(header.get("SOPClassUID") or media or CTImageStorage)


def is_enhanced(header: Dataset) -> bool:
    """Whether a file is an enhanced, multi-frame CT."""
    return sop_class(header) in _ENHANCED_CT


def text(header: Header, keyword: str) -> str:
    """Value of a tag on one line, without control characters that would act on a terminal."""
    value = header.get(keyword)
    # To print nested items would take minutes, and tell what they hold.
    return "" if isinstance(value, Items) else " ".join(printable(str(value or "")).split())


def n_frames(header: Header) -> int:
    """Number of frames of a file."""
    return int(header.get("NumberOfFrames") or 1)


def what_it_is(header: Header) -> str:
    """Tell from its header what a DICOM file holds.

    Args:
        header: a dataset, or its tags by keyword.

    Returns:
        "image", "damaged", or what it is that holds no cross-sections.

    Raises:
        ValueError, TypeError: tags that are not what they should be.
    """
    kind, modality = sop_class(header), text(header, "Modality")
    n_pixels, _ = int(header.get("Rows") or 0) * int(header.get("Columns") or 0), n_frames(header)
    if kind == MediaStorageDirectoryStorage:
        return "DICOMDIR"
    if "LOCALIZER" in text(header, "ImageType").upper():
        return "localizer"
    if kind.startswith(_SECONDARY_CAPTURE + ".") or kind == _SECONDARY_CAPTURE:
        return "screen capture"
    if modality == "SEG" or kind in (SegmentationStorage, _LABEL_MAP_SEGMENTATION):
        return "segmentation"
    if n_pixels:
        return "image"
    return "damaged" if modality in ("CT", "") else f"{modality[:_CODE]} object without image"


def _read_all(files: DicomFiles) -> Iterable[tuple[DicomFile, tuple[str, list[Dataset]]]]:
    """Each file with its headers or what it is instead, in order."""
    if files.in_order:
        return ((file, _read(files, file)) for file in files)
    listed = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(listed, pool.map(lambda file: _read(files, file), listed), strict=True))


def _read(files: DicomFiles, file: DicomFile) -> tuple[str, list[Dataset]]:
    """The headers of an image file, of each frame if it is enhanced CT; for others, what they are."""
    try:
        with files.open(file, limit=HEADER_BYTES) as stream:
            if stream.read(132)[128:] != b"DICM":
                return "not DICOM", []
            stream.seek(0)
            header = dcmread(stream, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        header.filename, header.source, header.frame = file.name, file, 0
        what = what_it_is(header)
        if what != "image":
            return what, []
        headers: list[Dataset] = frame_headers(header, files) if is_enhanced(header) else [header]
        return (what, headers) if all(map(_is_sound, headers)) else ("damaged", [])
    except Exception:  # pydicom raises many types on damaged files; the file is reported by name
        return "damaged", []


def _is_sound(header: Dataset) -> bool:
    """Whether all tags hold what they should; tags that no volume needs are dropped if they do not.

    pydicom looks at a value only when it is asked for: here, so that nobody later has to expect anything.
    """
    for tag in list(header.keys()):
        try:
            header[tag]
        except Exception:  # pydicom raises many types
            if keyword_for_tag(tag) not in _DISPENSABLE:
                return False
            del header[tag]
    return all(isinstance(header.get(keyword), int | NoneType) for keyword in _INTEGERS)


def _phases(headers: list[Dataset]) -> list[list[Dataset]]:
    """Split a series whose slices share places, if one tag tells volumes apart that have one slice a place."""
    places = [place(header) for header in headers]
    if None in places or len(set(places)) == len(places):
        return [headers]
    for tag in PHASE_TAGS:
        parts: dict[str, list[int]] = {}
        for index, header in enumerate(headers):
            parts.setdefault(text(header, tag), []).append(index)
        if len(parts) > 1 and all(len({places[i] for i in part}) == len(part) > 1 for part in parts.values()):
            return [
                [headers[index] for index in part] for _, part in sorted(parts.items(), key=lambda p: _natural(p[0]))
            ]
    return [headers]


def _natural(value: str) -> tuple[float, str]:
    """Sorts numbers by value, and before all else."""
    try:
        return float(value), value
    except ValueError:
        return np.inf, value


def place(header: Header) -> tuple[float, ...] | None:
    """ImagePositionPatient to a hundredth of a mm, or None."""
    try:
        return tuple(round(float(value), 2) + 0.0 for value in header.get("ImagePositionPatient") or ()) or None
    except (TypeError, ValueError):
        return None
