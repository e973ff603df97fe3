"""The headers of the images that a volume was read from: what a derived DICOM object takes over and refers to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from pydicom import Dataset, dcmread

from klip_monai.errors import InputError
from klip_monai.io.dicom.files import HEADER_BYTES, DicomFiles, ListedFiles
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.dicom.volumes import place
from klip_monai.io.read import FILE_SEPARATOR

_NEEDED = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID")
# Patient and study attributes that must be there and may be empty (DICOM type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@quiet_pydicom()
def source_headers(volume: MetaTensor) -> list[Dataset]:
    """Read the headers of a volume's images again, complete and without their pixels.

    Args:
        volume: from :func:`klip_monai.io.read_volume`, of DICOM files; its `meta` says which.

    Returns:
        One dataset an image file, each instance once. Patient and study attributes that a DICOM object must have are
        there, empty where the source has none.

    Raises:
        InputError: files that are gone, or lack the UIDs that a derived object has to refer to.
    """
    given, names = volume.meta["filename_or_obj"], set(volume.meta["files"].split(FILE_SEPARATOR))
    path = given if isinstance(given, ListedFiles) else Path(given)
    axes = np.asarray(volume.affine[:3, :3], dtype=np.float64)
    slice_mm = float(abs(np.linalg.det(axes)) / np.prod(np.linalg.norm(axes[:, :2], axis=0)))
    headers: dict[str, Dataset] = {}
    for header in _read(path, names):
        instance = str(header.get("SOPInstanceUID", ""))
        if instance in headers and place(headers[instance]) != place(header):
            raise InputError(
                f"{path}: got several slices under one SOPInstanceUID, expected one each, as a DICOM overlay refers to "
                "slices by it; leave the DICOM outputs out, or export the series again with its UIDs"
            )
        headers.setdefault(instance, _completed(header, path, slice_mm))
    return list(headers.values())


@quiet_pydicom()
def person_of(volume: MetaTensor) -> str | None:
    """Which person a volume shows, as far as its files tell.

    Args:
        volume: of any origin; of DICOM files if it is from :func:`klip_monai.io.read_volume` and its `meta` says so.

    Returns:
        SHA-256 of PatientID and its issuer, 64 hexadecimal digits, or None without a PatientID.

    Raises:
        InputError: if DICOM files are gone.
    """
    if volume.meta.get("format") != "dicom" or not volume.meta["files"]:
        return None
    given, name = volume.meta["filename_or_obj"], volume.meta["files"].split(FILE_SEPARATOR)[0]
    (header, *_) = _read(given if isinstance(given, ListedFiles) else Path(given), [name])
    patient, issuer = (str(header.get(keyword, "")).strip() for keyword in ("PatientID", "IssuerOfPatientID"))
    return hashlib.sha256(f"{issuer}\\{patient}".encode()).hexdigest() if patient else None


def _read(path: Path | ListedFiles, names: Collection[str]) -> list[Dataset]:
    """Headers of the files of these names."""
    try:
        with DicomFiles(path) as files:
            found: list[Dataset] = []
            for file in files:
                if file.name in names:
                    with files.open(file, limit=HEADER_BYTES) as stream:
                        found.append(dcmread(stream, force=True, stop_before_pixels=True))
    except Exception as error:  # pydicom and the archive modules raise many types on files that have changed
        raise _gone(path) from error
    if len(found) < len(names):
        raise _gone(path)
    return found


def _gone(path: Path | ListedFiles) -> InputError:
    return InputError(
        f"{path}: got files that are gone or have changed since the scan was read, expected its DICOM files where they "
        "were; a DICOM overlay has to refer to them, so leave dicom-seg and dicom-pm out or put the files back"
    )


def _completed(header: Dataset, path: Path | ListedFiles, slice_mm: float) -> Dataset:
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
