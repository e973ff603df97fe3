"""Sort DICOM files into volumes from their headers alone: by series, and within a series by phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import NoneType
from typing import BinaryIO, NamedTuple, cast

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
)

from klip_monai.io.dicom.files import HEADER_BYTES, DicomFile, DicomFiles, Readable
from klip_monai.io.dicom.pixels import PIXEL_TAGS, frame_headers
from klip_monai.io.dicom.volumes import FILE_TAGS, PHASE_TAGS, Header, distinct, n_frames, split, text
from klip_monai.io.kinds import (
    DAMAGED,
    DICOM,
    NOT_DICOM,
    PERHAPS_LOST,
    START_BYTES,
    SURELY_LOST,
    UNREADABLE,
    VOLUME,
    Neighbours,
    kind_of,
)

_SERIES_COUNT, _ACQUISITION_COUNT = "NumberOfSeriesRelatedInstances", "ImagesInAcquisition"
_PART_COUNT = "InConcatenationTotalNumber"
_DISPENSABLE = (
    *("SeriesDescription", "ContrastBolusAgent", "PatientID", _SERIES_COUNT, _ACQUISITION_COUNT, _PART_COUNT),
    *(*PHASE_TAGS, *FILE_TAGS),
)
_HEADER_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "FrameOfReferenceUID"),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", *PIXEL_TAGS),
    *("ImagePositionPatient", "ImageOrientationPatient", *_DISPENSABLE),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
]
_INTEGERS = ("Rows", "Columns", *PIXEL_TAGS)
_ENHANCED_CT = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# Objects that come with a CT series and show no cross-section of it.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_SERIES_TAG = 0x0020000E
_THREADS = 8
_CODE = 16  # letters of a CS (PS3.5, 6.2)
_SHOWN = 80  # letters; UIDs and descriptions have up to 64 (PS3.5, 6.2)


class Lost(NamedTuple):
    """A file that cannot be read, and may be a slice: its name, and what it is."""

    name: str
    what: str


@dataclass
class Scan:
    """What the headers under a path say.

    Attributes:
        volumes: headers of the slices (single-frame files, or frames of enhanced CT) by series UID; a series of
            several volumes counts as UID#1, UID#2, ...
        passed_over: what else was there, and how often.
        volume_files: files of other formats, each a scan of its own, that do not lie in an archive.
        lost: files that may be slices of a series and cannot be read, by series UID.
        damaged: further files that cannot be read, and nobody knows of which series.
        remarks: what the files of a volume say of their number that does not hold, by its key in ``volumes``.
    """

    volumes: dict[str, list[Dataset]] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)
    volume_files: list[DicomFile] = field(default_factory=list)
    lost: dict[str, list[Lost]] = field(default_factory=dict)
    damaged: list[Lost] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)


class _Read(NamedTuple):
    """What was read of a file: what it is, its series as far as it says, and the headers of its slices."""

    what: str
    series: str = ""
    headers: Sequence[Dataset] = ()


def scan_headers(files: DicomFiles) -> Scan:
    """Read the header of every file, several at a time, and sort out those that hold no cross-sections.

    Args:
        files: the files, open.

    Returns:
        Volumes in the order of their UIDs; headers in the order of the files. Each header has a `source`, its
        :class:`DicomFile`, that file's name as its `filename`, and a `frame`, its number in the file.
    """
    scan, series, instances = Scan(), dict[str, list[Dataset]](), Counter[str]()
    doubtful: list[tuple[DicomFile, _Read]] = []
    for file, read in _read_all(files):
        instances[read.series] += 1
        if read.headers:
            # De-identified files may have lost their UIDs; the geometry checks tell series without one apart.
            series.setdefault(read.series, []).extend(read.headers)
        elif read.what in SURELY_LOST + PERHAPS_LOST:
            doubtful.append((file, read))
        elif read.what == VOLUME and file.member is None:
            scan.volume_files.append(file)
        else:
            scan.passed_over[read.what] += 1
    _settle(scan, series, doubtful)
    for uid, headers in sorted(series.items()):
        parts = split(headers)
        for number, part in enumerate(parts, start=1):
            key = uid if len(parts) == 1 else f"{uid}#{number}"
            scan.volumes[key] = part
            scan.remarks[key] = _miscounts(part, headers, instances[uid])
    return scan


def _settle(scan: Scan, series: dict[str, list[Dataset]], doubtful: Sequence[tuple[DicomFile, _Read]]) -> None:
    """Say of each file that cannot be read which series may miss it."""
    images: dict[str, dict[str, str]] = {}
    for uid, headers in series.items() if doubtful else ():
        for header in headers:
            folder, name = _split(header.source)
            images.setdefault(folder, {})[name] = uid
    around = {folder: Neighbours(names) for folder, names in images.items()}
    for file, read in doubtful:
        folder, name = _split(file)
        if read.series:
            whose = {read.series} & set(series)
        else:
            whose = around[folder].owners(name, read.what) if folder in around else set()
        for uid in whose:
            scan.lost.setdefault(uid, []).append(Lost(file.name, read.what))
        if not whose and read.what in SURELY_LOST:
            scan.damaged.append(Lost(file.name, read.what))
        elif not whose:
            scan.passed_over[read.what] += 1


def _split(file: DicomFile) -> tuple[str, str]:
    """Folder of a file, on disk or in its archive, and its name there."""
    path = PurePosixPath(file.name)
    return str(path.parent), path.name


def _miscounts(volume: Sequence[Dataset], series: Sequence[Dataset], instances: int) -> list[str]:
    """Counts that the headers of a volume state and that do not hold, neither for it nor for its series."""
    found: list[str] = []
    said = _count(volume, _SERIES_COUNT)
    if said and said != instances and said != len({text(header, "SOPInstanceUID") for header in series}):
        found.append(f"got {instances} files of the series where they say {said} ({_SERIES_COUNT})")
    parts = len({text(header, "SOPInstanceUID") for header in volume})
    said = _count(volume, _PART_COUNT)
    if said and said != parts:
        found.append(f"got {parts} files of the volume where they say {said} ({_PART_COUNT})")
    for number in sorted({text(header, "AcquisitionNumber") for header in volume}):
        mine, all_ = (
            [header for header in headers if text(header, "AcquisitionNumber") == number]
            for headers in (volume, series)
        )
        said = _count(mine, _ACQUISITION_COUNT)
        if said and said not in (len(distinct(mine)), len(distinct(all_))):
            found.append(f"got {len(distinct(mine))} slices where they say {said} ({_ACQUISITION_COUNT})")
    return found


def _count(headers: Sequence[Dataset], keyword: str) -> int:
    """Largest count that headers state; 0 if none does."""
    said = [text(header, keyword) for header in headers]
    return max((int(value) for value in said if value.isdecimal()), default=0)


def describe(key: str, headers: Sequence[Dataset], tag: str = "") -> str:
    """One volume in a message, with the tag in which it differs from others of its series."""
    first, n_slices = headers[0], sum(map(n_frames, headers))
    modality, description = text(first, "Modality"), text(first, "SeriesDescription")
    return (
        f"{key[:_SHOWN] or 'no UID'} ({modality[:_SHOWN] or 'no modality'}, "
        f"{description[:_SHOWN] or 'no description'}, {n_slices} slices"
        f"{f', {tag} {text(first, tag)[:_SHOWN] or None}' if tag else ''})"
    )


def sop_class(header: Header) -> str:
    """SOP class of a file; de-identified files sometimes keep it in the file meta group only."""
    meta = getattr(header, "file_meta", None)
    media = meta.get("MediaStorageSOPClassUID", "") if meta is not None else ""
    return str(header.get("SOPClassUID") or media or CTImageStorage)


def is_enhanced(header: Dataset) -> bool:
    """Whether a file is an enhanced, multi-frame CT."""
    return sop_class(header) in _ENHANCED_CT


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
    if modality not in ("CT", ""):
        return f"{modality[:_CODE]} object without image"
    # A class that is cut off is followed by nothing.
    if kind == CTImageStorage or kind in _ENHANCED_CT or not text(header, "SeriesInstanceUID"):
        return DAMAGED
    name = UID(kind).name
    return f"{'private object' if name == kind else name.removesuffix(' Storage')} without image"


def _read_all(files: DicomFiles) -> Iterable[tuple[DicomFile, _Read]]:
    """Each file with what was read of it, in order."""
    if files.in_order:
        return ((file, _read(files, file)) for file in files)
    listed = list(files)
    free = [file for file in listed if file.member is None or not file.member.streamed]
    with ThreadPoolExecutor(_THREADS) as pool:
        read = dict(zip(free, pool.map(lambda file: _read(files, file), free), strict=True))
    return [(file, read[file] if file in read else _read(files, file)) for file in listed]


def _read(files: DicomFiles, file: DicomFile) -> _Read:
    """The headers of an image file, of each frame if it is enhanced CT; for others, what they are."""
    if file.problem:
        return _Read(file.problem)
    try:
        with files.open(file, limit=HEADER_BYTES) as stream:
            start = stream.read(START_BYTES)
            if (what := kind_of(start, file.name)) != DICOM:
                return _Read(what)
            try:
                stream.seek(0)
                header = dcmread(stream, force=True, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
                read = _sorted(header, file, files)
            except Exception:  # pydicom raises many types on damaged files; the file is reported by name
                read = _Read(DAMAGED)
            return _Read(*damage(start, stream)) if read.what == DAMAGED else read
    except Exception as error:  # archives raise many types, too; only errors of the system have a number
        return _Read(UNREADABLE if getattr(error, "errno", None) else DAMAGED)


def _sorted(header: Dataset, file: DicomFile, files: DicomFiles) -> _Read:
    """What the header of a DICOM file says."""
    header.filename, header.source, header.frame = file.name, file, 0
    what, series = what_it_is(header), text(header, "SeriesInstanceUID")
    if what != "image":
        return _Read(what, series)
    headers: list[Dataset] = frame_headers(header, files) if is_enhanced(header) else [header]
    return _Read(what, series, headers) if all(map(_is_sound, headers)) else _Read(DAMAGED, series)


def damage(start: bytes, stream: Readable) -> tuple[str, str]:
    """What to call a file that begins like DICOM and cannot be parsed, and the series it is of.

    Args:
        start: its first bytes; without a preamble it may be anything.
        stream: the file.

    Returns:
        Its kind; its SeriesInstanceUID if that is whole, else an empty string.
    """
    if start[128:132] != b"DICM":
        return NOT_DICOM, ""
    whole = False

    def behind(tag: BaseTag, *_: object) -> bool:
        nonlocal whole
        whole = tag > _SERIES_TAG
        return whole

    try:
        stream.seek(0)
        header = read_partial(cast(BinaryIO, stream), behind, specific_tags=[_SERIES_TAG])
        return DAMAGED, text(header, "SeriesInstanceUID") if whole else ""
    except Exception:  # as pydicom raises
        return DAMAGED, ""


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
