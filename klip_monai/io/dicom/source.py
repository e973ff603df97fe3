"""The headers of the images that a volume was read from: what a derived DICOM object takes over and refers to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.data import MetaTensor
from pydicom import DataElement, Dataset, dcmread
from pydicom.tag import BaseTag, Tag
from pydicom.uid import SegmentationStorage

from klip_monai.errors import InputError
from klip_monai.io.dicom.files import HEADER_BYTES, DicomFiles, ListedFiles
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.dicom.values import is_uid, named, transcode
from klip_monai.io.dicom.volumes import place
from klip_monai.io.read import FILE_SEPARATOR

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_NEEDED_IN_SPACE = ("FrameOfReferenceUID",)
_IN_SPACE = ("dicom-seg", "dicom-pm")  # outputs whose frames lie where the images do
_WHERE_SHARED = ("PlaneOrientationSequence", "PixelMeasuresSequence")  # where highdicom looks for them
# Patient and study attributes that must be there and may be empty (DICOM type 2).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# What highdicom takes over besides the patient and study modules.
_TAKEN_OVER = (
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "StationName"),
    *("InstitutionName", "InstitutionalDepartmentName", "InstitutionAddress", "AcquisitionDateTime"),
    *("PositionReferenceIndicator", "LossyImageCompression"),
)


class SourceHeaders(NamedTuple):
    """What derived objects take over and refer to.

    Attributes:
        images: a dataset an image file, without pixels. In the first, from which patient and study are copied, texts
            are in UTF-8, and values that DICOM does not allow are empty.
        emptied: keywords of these values.
    """

    images: list[Dataset]
    emptied: list[str]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the objects has to know, in sentences."""
        if not self.emptied:
            return ()
        tags = ", ".join(map(named, self.emptied))
        return (f"DICOM outputs: got values that DICOM does not allow in {tags}, which are left empty there.",)


@quiet_pydicom()
def source_headers(volume: MetaTensor, outputs: Sequence[str]) -> SourceHeaders:
    """Read the headers of a volume's images again, complete and without their pixels.

    Args:
        volume: from :func:`klip_monai.io.read_volume`, of DICOM files; its `meta` says which.
        outputs: what is to be made from them.

    Returns:
        One dataset an image file, each instance once. Patient and study attributes that a DICOM object must have are
        there, empty where the source has none.

    Raises:
        InputError: it was not read from DICOM files, or from some that are gone, or lack the UIDs that a derived
            object has to refer to.
    """
    meta = volume.meta
    if meta["format"] != "dicom":
        raise InputError(
            f"outputs: got {meta['format']} without a DICOM series, expected one for {', '.join(outputs)}, which "
            "are filed with its study; leave them out"
        )
    given, names = meta["filename_or_obj"], set(meta["files"].split(FILE_SEPARATOR))
    path = given if isinstance(given, ListedFiles) else Path(given)
    axes = np.asarray(volume.affine[:3, :3], dtype=np.float64)
    slice_mm = float(abs(np.linalg.det(axes)) / np.prod(np.linalg.norm(axes[:, :2], axis=0)))
    headers: dict[str, Dataset] = {}
    for header in _read(path, names):
        instance = _completed(header, path, slice_mm, outputs)
        if instance in headers and place(headers[instance]) != place(header):
            raise _refusal(path, f"several slices under one {named('SOPInstanceUID')}", outputs)
        headers.setdefault(instance, header)
    images = list(headers.values())
    if len({str(header.StudyInstanceUID) for header in images}) > 1:
        raise _refusal(path, f"images that differ in {named('StudyInstanceUID')}", outputs)
    try:
        return SourceHeaders(images, transcode(images[0], _copied(images[0])))
    except KeyError:
        raise _refusal(path, f"images of an unknown {named('SOPClassUID')}", outputs) from None


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
        "were; DICOM outputs have to refer to them, so leave these out or put the files back"
    )


def _completed(header: Dataset, path: Path | ListedFiles, slice_mm: float, outputs: Sequence[str]) -> str:
    """Fill what may be empty, refuse what must not be; slices of no stated thickness are taken to touch.

    Returns:
        The SOPInstanceUID.
    """
    if "SOPClassUID" not in header and "MediaStorageSOPClassUID" in getattr(header, "file_meta", ()):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID
    for keyword in (*_NEEDED, *_NEEDED_IN_SPACE):
        if not is_uid(header.get(keyword)) and (concerned := _who_needs(keyword, outputs)):
            raise _refusal(path, f"images without a valid {named(keyword)}", concerned)
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    if "ImagePositionPatient" in header and not _is_length(header.get("SliceThickness")):
        header.SliceThickness = f"{slice_mm:.10g}"
    shared, frames = (header.get(f"{kind}FunctionalGroupsSequence") for kind in ("Shared", "PerFrame"))
    for keyword in _WHERE_SHARED if shared and frames else ():
        if keyword not in shared[0] and keyword in frames[0]:  # one for all, or it would be no volume
            shared[0][keyword] = frames[0][keyword]
    return str(header.SOPInstanceUID)


def _is_length(value: Any) -> bool:
    try:
        return 0 < float(value) < np.inf
    except (TypeError, ValueError):
        return False


def _copied(header: Dataset) -> list[BaseTag]:
    """Tags of what highdicom copies from a header, found without looking at values, which may be none.

    Raises:
        KeyError: an unknown SOPClassUID.
    """
    from highdicom import SOPClass  # slow to import, and of no use to person_of

    copy = SOPClass(
        study_instance_uid="1.2",
        series_instance_uid="1.2",
        series_number=1,
        sop_instance_uid="1.2",
        sop_class_uid=SegmentationStorage,
        instance_number=1,
        modality="SEG",
    )
    names = Dataset()
    for tag in sorted(header.keys()):
        names[tag] = DataElement(tag, "UN", None)
    names.SOPClassUID, names.SOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    copy.copy_patient_and_study_information(names)
    taken_over = [tag for tag in map(Tag, _TAKEN_OVER) if tag in header]
    return [*(tag for tag in sorted(copy.keys()) if copy.get_item(tag) is names.get_item(tag)), *taken_over]


def _who_needs(keyword: str, outputs: Sequence[str]) -> list[str]:
    return [output for output in outputs if keyword not in _NEEDED_IN_SPACE or output in _IN_SPACE]


def _refusal(path: Path | ListedFiles, got: str, outputs: Sequence[str]) -> InputError:
    concerned = ", ".join(outputs)
    return InputError(
        f"{path}: got {got}, which {concerned} cannot refer to, expected the UIDs of one series; leave out "
        f"{concerned}, or export the series again with its UIDs"
    )
