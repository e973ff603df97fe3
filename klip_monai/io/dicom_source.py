"""The headers of the images that a volume was read from: what a derived DICOM object takes over and refers to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.misc import is_dicom

from klip_monai.errors import InputError
from klip_monai.io.dicom_pixels import quiet_pydicom

_NEEDED = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID")
# Patient and study attributes that must be there and may be empty (DICOM type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_ORIENTATION_TOLERANCE = 1e-3


@quiet_pydicom()
def source_headers(
    path: str | os.PathLike[str], *, series_uid: str, shape: tuple[int, int, int], affine: npt.NDArray[np.float64]
) -> list[Dataset]:
    """Read the headers of a volume's images again, without their pixels.

    Args:
        path: what the volume was read from, a folder or one multi-frame file.
        series_uid: SeriesInstanceUID of the volume.
        shape: (X, Y, Z) = (columns, rows, slices) of the volume.
        affine: (4, 4) voxel-to-RAS matrix in mm of the volume.

    Returns:
        One dataset an image file: of the series, of the volume's size and orientation, each instance once. Patient and
        study attributes that a DICOM object must have are there, empty where the source has none.

    Raises:
        InputError: no such image, or one without the UIDs that a derived object has to refer to.
    """
    headers: dict[str, Dataset] = {}
    distance = float(np.linalg.norm(affine[:3, 2]))
    for header in _images(Path(path)):
        if str(header.get("SeriesInstanceUID", "")) == series_uid and _has_shape(header, shape, affine):
            headers.setdefault(str(header.get("SOPInstanceUID", "")), _completed(header, Path(path), distance))
    if not headers:
        raise InputError(
            f"{path}: got no image of the series that was read, expected its DICOM files where they were; a DICOM "
            "overlay has to refer to them, so leave the DICOM outputs out or put the files back"
        )
    return list(headers.values())


def _images(path: Path) -> Iterator[Dataset]:
    """Headers of all images under a folder, or of one file; whatever else lies there is passed over."""
    files = [path] if path.is_file() else sorted(Path(root, name) for root, _, names in os.walk(path) for name in names)
    for file in files:
        try:
            if file.is_file() and is_dicom(file):
                header = dcmread(file, stop_before_pixels=True)
                if "Rows" in header and "LOCALIZER" not in str(header.get("ImageType", "")).upper():
                    yield header
        except Exception:  # pydicom raises many types on damaged files, which are no images of the volume
            continue


def _has_shape(header: Dataset, shape: tuple[int, int, int], affine: npt.NDArray[np.float64]) -> bool:
    """Whether an image has as many pixels as a slice of the volume, and the same directions of rows and columns."""
    if (int(header.Columns), int(header.Rows)) != shape[:2]:
        return False
    orientation = header.get("ImageOrientationPatient")
    if orientation is None:  # of an enhanced image, whose frames the reader has compared
        return True
    axes = (affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)).T * [-1.0, -1.0, 1.0]
    return bool(np.abs(np.asarray(orientation, dtype=np.float64) - axes.ravel()).max() < _ORIENTATION_TOLERANCE)


def _completed(header: Dataset, path: Path, slice_mm: float) -> Dataset:
    """Fill what may be empty, refuse what must not be; slices of no stated thickness are taken to touch."""
    if "SOPClassUID" not in header and "MediaStorageSOPClassUID" in getattr(header, "file_meta", ()):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID
    missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
    if missing:
        raise InputError(
            f"{path}: got images without {', '.join(missing)}, expected the UIDs that a DICOM overlay refers to; leave "
            "the DICOM outputs out, or export the series again with its UIDs"
        )
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    if not header.get("SliceThickness") and "ImagePositionPatient" in header:
        header.SliceThickness = f"{slice_mm:.10g}"
    return header
