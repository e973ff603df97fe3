"""Find the CT series under a folder and read one of them as Hounsfield units on its own voxel grid."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.misc import is_dicom
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
)

from klip_monai.errors import InputError
from klip_monai.io.dicom_geometry import series_grid
from klip_monai.io.dicom_pixels import (
    PIXEL_TAGS,
    check_rescale,
    frame_headers,
    iter_stored,
    numbers,
    quiet_pydicom,
    to_hu,
)

_ENHANCED_CT = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)

_HEADER_TAGS = [
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "FrameOfReferenceUID"),
    *("Rows", "Columns", "NumberOfFrames", "PixelSpacing", *PIXEL_TAGS),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
]
# Objects that come with a CT series and show no cross-section of it.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_MAX_LISTED = 8


@dataclass(frozen=True)
class SeriesInfo:
    """One image series under a folder; carries nothing that identifies the patient.

    Attributes:
        series_uid: SeriesInstanceUID; empty if de-identification removed it.
        modality: "CT", "MR", ...; empty if the files do not say.
        description: SeriesDescription; empty if the files do not say.
        n_files: number of files, localizers left out.
        n_slices: number of slices (frames of all files).
        rows: rows of the first slice.
        columns: columns of the first slice.
        folder: deepest folder that holds all files of the series.
    """

    series_uid: str
    modality: str
    description: str
    n_files: int
    n_slices: int
    rows: int
    columns: int
    folder: Path

    def __str__(self) -> str:
        description = self.description or "no description"
        return (
            f"{self.series_uid or 'no UID'} ({self.modality or 'no modality'}, {description}, {self.n_slices} slices)"
        )


@dataclass
class _Scan:
    """Headers of the image files under a folder by series, and what else was there."""

    series: dict[str, list[Dataset]]
    ignored: Counter[str]
    damaged: list[Path]


@quiet_pydicom()
def list_series(folder: str | os.PathLike[str]) -> list[SeriesInfo]:
    """List the image series of every modality under a folder, from the headers alone.

    Localizers, screen captures, segmentations, reports, DICOMDIR and files that are not DICOM are passed over.

    Args:
        folder: searched with all its subfolders; file names and extensions do not matter.

    Returns:
        The series, sorted by SeriesInstanceUID; empty if there is none.

    Raises:
        InputError: the folder does not exist or is a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder: got {str(folder)!r}, expected an existing folder with DICOM files; check the path")
    return [_info(uid, headers) for uid, headers in sorted(_scan(folder).series.items())]


@quiet_pydicom()
def read_ct_series(
    path: Path, *, series_uid: str | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], str]:
    """Read one CT series as Hounsfield units, slice by slice into a single array.

    Args:
        path: folder, searched with all its subfolders, or one multi-frame file.
        series_uid: SeriesInstanceUID; may be None where the folder holds one CT series.
        progress: called after each slice with (slices read, slices in total).

    Returns:
        HU of shape (X, Y, Z) = (columns, rows, slices), a view that is contiguous within a slice; the (4, 4) affine to
        RAS mm; the SeriesInstanceUID (may be empty). Padding outside the field of view is -1024 HU.

    Raises:
        InputError: no or several CT series, another modality, an irregular or mixed geometry, files that are damaged
            or cannot be decoded, or values that are not HU.
    """
    scan = _scan(path)
    uid = _choose(scan, path, series_uid)
    headers, label = scan.series[uid], f"series {uid}" if uid else str(path)
    if any(_sop_class(header) in _ENHANCED_CT for header in headers):
        headers = _frames(headers, label)
    order, affine = _grid(headers, label)
    for header in headers:
        check_rescale(header, f"{label}, {_name(header)}")
    slices = np.empty((len(headers), headers[0].Rows, headers[0].Columns), dtype=np.float32)
    for place, stored in enumerate(iter_stored(headers, order, label)):
        header = headers[order[place]]
        slices[place] = to_hu(stored, header, f"{label}, {_name(header)}")
        if progress is not None:
            progress(place + 1, len(headers))
    return slices.transpose(2, 1, 0), affine, uid


def _scan(path: Path) -> _Scan:
    """Read the headers of a file, or of all files under a folder, and sort out those that hold no cross-sections."""
    scan = _Scan({}, Counter(), [])
    if path.is_file():
        _sort_in(path, scan)
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            _sort_in(Path(root, name), scan)
    return scan


def _sort_in(path: Path, scan: _Scan) -> None:
    """Read one header and put it with its series, or with what is ignored or damaged."""
    try:
        # A named pipe in the folder would block the reader.
        if not path.is_file() or not is_dicom(path):
            scan.ignored["not DICOM"] += 1
            return
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        sop_class, modality, uid = _sop_class(header), _text(header, "Modality"), _text(header, "SeriesInstanceUID")
        image_type = _text(header, "ImageType").upper()
        n_pixels, _ = int(header.get("Rows") or 0) * int(header.get("Columns") or 0), _n_frames(header)
    except Exception:  # pydicom raises many types on damaged files; the file is reported by name
        scan.damaged.append(path)
        return
    if sop_class == MediaStorageDirectoryStorage:
        scan.ignored["DICOMDIR"] += 1
    elif "LOCALIZER" in image_type:
        scan.ignored["localizer"] += 1
    elif sop_class.startswith(_SECONDARY_CAPTURE + ".") or sop_class == _SECONDARY_CAPTURE:
        scan.ignored["screen capture"] += 1
    elif modality == "SEG" or sop_class in (SegmentationStorage, _LABEL_MAP_SEGMENTATION):
        scan.ignored["segmentation"] += 1
    elif n_pixels:
        # De-identified files may have lost their UIDs; the geometry checks tell series without one apart.
        scan.series.setdefault(uid, []).append(header)
    elif modality == "CT" or not modality:
        scan.damaged.append(path)
    else:
        scan.ignored[f"{modality} object without image"] += 1


def _choose(scan: _Scan, path: Path, series_uid: str | None) -> str:
    """Pick the one CT series that is meant, or say what is there instead."""
    if scan.damaged:
        raise InputError(
            f"{path}: got {len(scan.damaged)} damaged or incomplete DICOM file(s), first {scan.damaged[0].name!r}, "
            "expected complete files; copy them again or remove them from the folder"
        )
    infos = {uid: _info(uid, headers) for uid, headers in sorted(scan.series.items())}
    ct = {uid: info for uid, info in infos.items() if info.modality == "CT"}
    if series_uid is not None:
        if series_uid not in infos:
            raise InputError(f"series_uid: got {series_uid!r}, expected one under {path}; found {_list(infos)}")
        if series_uid not in ct:
            raise InputError(f"series_uid: got {infos[series_uid]}, expected a CT series; found {_list(ct)}")
        return series_uid
    if not infos:
        others = ", ".join(f"{count} x {what}" for what, count in scan.ignored.most_common()) or "no file"
        raise InputError(
            f"{path}: got {others}, expected the DICOM files of a CT series; "
            "give the scan's folder, or the .nii.gz or .nrrd file itself"
        )
    if not ct:
        raise InputError(f"{path}: got {_list(infos)}, expected a CT series; only CT has Hounsfield units")
    if len(ct) > 1:
        raise InputError(f"{path}: got {len(ct)} CT series, expected one; choose one with --series-uid: {_list(ct)}")
    return next(iter(ct))


def _frames(headers: Sequence[Dataset], label: str) -> list[Dataset]:
    """Turn the one multi-frame file of a series into a header for each frame."""
    if len(headers) > 1:
        raise InputError(
            f"{label}: got {len(headers)} files with a multi-frame one among them, expected one multi-frame file "
            "or single-frame files only; keep one of the two in the folder"
        )
    try:
        frames = frame_headers(Path(str(headers[0].filename)))
    except Exception as error:
        raise InputError(
            f"{label}: got a damaged multi-frame header in {_name(headers[0])}, expected complete enhanced CT; "
            "copy the file again"
        ) from error
    return frames


def _grid(headers: Sequence[Dataset], label: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Check that all slices share size, spacing and orientation, then order them."""
    if not headers:
        raise InputError(f"{label}: got no slices, expected the frames of one volume; export the series again")
    for header in headers:
        frames, samples = _n_frames(header), int(header.get("SamplesPerPixel") or 1)
        if frames != 1 or samples != 1:
            raise InputError(
                f"{label}: got {frames} frame(s) of {samples} value(s) a pixel in {_name(header)}, expected one grey "
                "slice a file; export the series again"
            )
    _require_same("Rows x Columns", [f"{header.Rows} x {header.Columns}" for header in headers], label)
    _require_same("FrameOfReferenceUID", [str(header.get("FrameOfReferenceUID", "")) for header in headers], label)
    spacing = np.array([numbers(header, "PixelSpacing", count=2, label=label) for header in headers])
    orientation = np.array([numbers(header, "ImageOrientationPatient", count=6, label=label) for header in headers])
    positions = np.array([numbers(header, "ImagePositionPatient", count=3, label=label) for header in headers])
    # Rounding may differ from slice to slice by the last digit written.
    _require_same("PixelSpacing", [str((row.round(4) + 0.0).tolist()) for row in spacing], label, spacing, 1e-4)
    _require_same(
        "ImageOrientationPatient", [str((row.round(4) + 0.0).tolist()) for row in orientation], label, orientation, 1e-4
    )
    return series_grid(positions, orientation[0], pixel_spacing=spacing[0], label=label)


def _require_same(
    tag: str,
    values: Sequence[str],
    label: str,
    exact: npt.NDArray[np.float64] | None = None,
    tolerance: float = 0.0,
) -> None:
    """Refuse a series whose slices differ in one tag; numbers may differ by the tolerance."""
    if exact is not None and np.abs(exact - exact[0]).max() <= tolerance:
        return
    counts = Counter(values).most_common()
    if len(counts) > 1:
        found = ", ".join(f"{value} on {count} slice(s)" for value, count in counts[:3])
        raise InputError(
            f"{label}: got mixed {tag} ({found}), expected one for all slices; keep the slices of one geometry"
        )


def _info(uid: str, headers: Sequence[Dataset]) -> SeriesInfo:
    """Summarise the headers of one series."""
    first, paths = headers[0], [str(Path(str(header.filename)).parent) for header in headers]
    return SeriesInfo(
        series_uid=uid,
        modality=_text(first, "Modality"),
        description=_text(first, "SeriesDescription"),
        n_files=len(headers),
        n_slices=sum(_n_frames(header) for header in headers),
        rows=int(first.Rows),
        columns=int(first.Columns),
        folder=Path(os.path.commonpath(paths)),
    )


def _list(infos: dict[str, SeriesInfo]) -> str:
    """Name the series of a message, the first few of many."""
    shown = "; ".join(str(info) for info in list(infos.values())[:_MAX_LISTED]) or "none"
    return shown + (f"; and {len(infos) - _MAX_LISTED} more" if len(infos) > _MAX_LISTED else "")


def _sop_class(header: Dataset) -> str:
    """SOP class of a file; de-identified files sometimes keep it in the file meta group only."""
    meta = getattr(header, "file_meta", None)
    media = meta.get("MediaStorageSOPClassUID", "") if meta is not None else ""
    return str(header.get("SOPClassUID") or media or CTImageStorage)


def _text(header: Dataset, keyword: str) -> str:
    """Value of a tag on one line, without control characters that would act on a terminal."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(header.get(keyword) or ""))
    return " ".join(text.split())


def _n_frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _name(header: Dataset) -> str:
    return repr(Path(str(header.filename)).name)
