#!/usr/bin/env python3
"""Make the sample data beside this file: two synthetic abdominal CT series, one of them with a planted liver lesion.

Run ``python sample_data/make_sample_data.py``; ``--output`` writes elsewhere. Every value and every UID follows
from the constants below: a run gives the same bytes again. A processor with other vector instructions may round a few
voxels in a million to the neighbouring HU; headers, geometry and UIDs are the same everywhere.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.quaternions import mat2quat, quat2mat
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

from klip_monai.phantom import Anatomy, PhantomScan, add_lesions, axial_affine, random_anatomy, render

SHAPE = (176, 176, 28)
SLICE_MM = 5.0
NOISE_HU = 8.0
PHASE = "portal"
INTERCEPT_HU = -1024
BITS_STORED = 12

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Case:
    """One patient and how they are scanned.

    Attributes:
        name: folder of the series.
        seed: of the anatomy; at least 900000, which no training or validation phantom uses.
        pixel_mm: pixel spacing, mm; the slices are ``SLICE_MM`` apart.
        centre: RAS mm of the middle of the grid.
        degrees: rotation of the grid about x and z.
        lesion_seed: of the lesion; None is a healthy patient.
    """

    name: str
    seed: int
    pixel_mm: float
    centre: tuple[float, float, float]
    degrees: tuple[float, float]
    lesion_seed: int | None = None

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) from (column, row, slice) to RAS mm, equal in DICOM and NIfTI.

        A quaternion of float32 numbers, as a NIfTI qform stores it, holds few rotations exactly, least of all near
        axial ones: rounding a matrix to it costs 0.001 mm. The grid takes the nearest of those that it does hold.
        """
        turn = Rotation.from_euler("xz", self.degrees, degrees=True).as_matrix()
        spacing = (self.pixel_mm, self.pixel_mm, SLICE_MM)
        w, x, y, z = mat2quat(turn @ np.diag([-1.0, -1.0, 1.0]))
        vector = np.array([x, y, z], np.float32).astype(np.float64) * (-1 if w < 0 else 1)
        exact = quat2mat([np.sqrt(max(0.0, 1 - float(vector @ vector))), *vector]) @ np.diag([-1.0, -1.0, 1.0])
        affine = axial_affine(SHAPE, spacing=spacing, centre=self.centre, rotation=exact)
        affine[:3, 3] = np.round(affine[:3, 3] * 64) / 64
        return affine

    @property
    def anatomy(self) -> Anatomy:
        """The patient, in the portal venous phase, with the lesion if there is one."""
        patient = random_anatomy(self.seed, phase=PHASE)
        if self.lesion_seed is None:
            return patient
        return add_lesions(
            patient, seed=self.lesion_seed, radius_mm=(12.0, 14.0), contrast_hu=(50.0, 60.0), z_mm=(15.0, 50.0)
        )

    def scan(self) -> PhantomScan:
        """Render the patient on the grid."""
        return render(self.anatomy, self.affine, shape=SHAPE, noise_hu=NOISE_HU)

    def uid(self, *parts: str) -> UID:
        """UID of a part of this case, such as its series, the same in every run."""
        return generate_uid(entropy_srcs=["klip_monai sample data", self.name, str(self.seed), *parts])


HEALTHY = Case("healthy", 900018, pixel_mm=2.125, centre=(-7.0, 5.0, 30.0), degrees=(0.0, 0.0))
LESION = Case("lesion", 900020, pixel_mm=2.0625, centre=(6.0, -4.0, 33.0), degrees=(4.0, 3.0), lesion_seed=900002)


def stored_hu(scan: PhantomScan) -> NDArray[np.int16]:
    """HU of a scan, (X, Y, Z), as the scanner would store them: whole numbers in the range of 12 bits."""
    hu = np.rint(scan.image[0].numpy())
    return np.clip(hu, INTERCEPT_HU, INTERCEPT_HU + 2**BITS_STORED - 1).astype(np.int16)


def dicom_slice(case: Case, hu: NDArray[np.int16], index: int) -> Dataset:
    """One slice as a CT Image Storage instance.

    Args:
        case: patient and grid.
        hu: (X, Y, Z) of the whole series.
        index: of the slice along Z; slice 0 is the most inferior.

    Returns:
        The instance with its file meta information.
    """
    data = Dataset()
    _describe_patient_and_study(data, case)
    _describe_series(data, case)
    _describe_image(data, case, index)
    _add_pixels(data, hu[:, :, index].T)
    data.file_meta = FileMetaDataset()
    data.file_meta.FileMetaInformationVersion = b"\x00\x01"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Ours rather than pydicom's, which would change the files with its version.
    data.file_meta.ImplementationClassUID = generate_uid(entropy_srcs=["klip_monai sample data"])
    data.file_meta.ImplementationVersionName = "KLIP_MONAI"
    return data


def _describe_patient_and_study(data: Dataset, case: Case) -> None:
    """Patient, General Study, Patient Study."""
    data.PatientName = f"Phantom^{case.name.capitalize()}"
    data.PatientID = f"KLIP-{case.seed}"
    data.PatientBirthDate = ""
    data.PatientSex = "O"
    data.PatientComments = "Synthetic phantom, no real patient"
    data.QualityControlSubject = "YES"
    data.StudyInstanceUID = case.uid("study")
    data.StudyDate = "20260101"
    data.StudyTime = "120000"
    data.ReferringPhysicianName = ""
    data.StudyID = "1"
    data.AccessionNumber = ""
    data.StudyDescription = "Synthetic abdominal CT"


def _describe_series(data: Dataset, case: Case) -> None:
    """General Series, Frame of Reference, General Equipment."""
    data.Modality = "CT"
    data.SeriesInstanceUID = case.uid("series")
    data.SeriesNumber = 1
    data.SeriesDate = "20260101"
    data.SeriesTime = "120000"
    data.SeriesDescription = f"Phantom, portal venous, {case.name}"
    data.ProtocolName = "Synthetic abdomen"
    data.BodyPartExamined = "ABDOMEN"
    data.PatientPosition = "HFS"
    data.FrameOfReferenceUID = case.uid("frame of reference")
    data.PositionReferenceIndicator = ""
    data.Manufacturer = "klip_monai phantom"
    data.ManufacturerModelName = "klip_monai.phantom"
    data.DeviceSerialNumber = str(case.seed)
    data.SoftwareVersions = "1"


def _describe_image(data: Dataset, case: Case, index: int) -> None:
    """SOP Common, General Acquisition, General Image, Image Plane, CT Image."""
    affine = _LPS_TO_RAS @ case.affine
    position = affine[:3, :3] @ [0, 0, index] + affine[:3, 3]
    orientation = (affine[:3, :2] / case.pixel_mm).T.ravel()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = case.uid("slice", str(index))
    data.InstanceNumber = index + 1
    data.AcquisitionNumber = 1
    data.AcquisitionDate = data.ContentDate = "20260101"
    data.AcquisitionTime = data.ContentTime = "120000"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.BurnedInAnnotation = "NO"
    data.LossyImageCompression = "00"
    data.PixelSpacing = [_decimal(case.pixel_mm)] * 2
    data.SliceThickness = _decimal(SLICE_MM)
    data.SpacingBetweenSlices = _decimal(SLICE_MM)
    data.ImageOrientationPatient = [_decimal(v) for v in orientation]
    data.ImagePositionPatient = [_decimal(v) for v in position]
    data.KVP = "120"
    data.RescaleIntercept = str(INTERCEPT_HU)
    data.RescaleSlope = "1"
    data.RescaleType = "HU"
    data.WindowCenter = "60"
    data.WindowWidth = "400"


def _add_pixels(data: Dataset, rows: NDArray[np.int16]) -> None:
    """Image Pixel: HU of one slice, (rows, columns)."""
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = rows.shape
    data.BitsAllocated = 16
    data.BitsStored = BITS_STORED
    data.HighBit = BITS_STORED - 1
    data.PixelRepresentation = 0
    data.PixelData = (rows - np.int16(INTERCEPT_HU)).astype("<u2").tobytes()


def _decimal(value: float) -> str:
    """The 16 characters of a DICOM decimal string."""
    return format_number_as_ds(float(value) + 0.0)


def dicom_bytes(data: Dataset) -> bytes:
    """The DICOM file of an instance."""
    file = BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def nifti_bytes(voxels: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64], description: str) -> bytes:
    """A NIfTI file, not compressed, with sform and qform of code 1 (scanner).

    Args:
        voxels: (X, Y, Z).
        affine: (4, 4) to RAS mm.
        description: up to 79 characters for the header.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    return bytes(image.to_bytes())


def write_series(folder: Path, case: Case, hu: NDArray[np.int16]) -> None:
    """Write one file per slice, in place of any there; names follow the UIDs, so their order says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.dcm"):
        old.unlink()
    for index in range(hu.shape[2]):
        data = dicom_slice(case, hu, index)
        (folder / f"{data.SOPInstanceUID[-12:]}.dcm").write_bytes(dicom_bytes(data))


def make(output: Path) -> None:
    """Write both series, the NIfTI copy of the one with the lesion, and the mask of the lesion.

    Args:
        output: folder; made if it does not exist.
    """
    for case in (HEALTHY, LESION):
        scan = case.scan()
        hu = stored_hu(scan)
        write_series(output / case.name, case, hu)
        if case.lesion_seed is not None:
            ct = nifti_bytes(hu, case.affine, "klip_monai phantom, HU")
            mask = nifti_bytes(scan.lesions.astype(np.uint8), case.affine, "klip_monai phantom, 1 is lesion")
            for name, content in ((f"{case.name}.nii.gz", ct), (f"{case.name}_mask.nii.gz", mask)):
                (output / name).write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Make two synthetic abdominal CT series, one with a liver lesion: DICOM, NIfTI and lesion mask."
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent, help="folder to write to (default: this one)"
    )
    torch.set_num_threads(1)
    make(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
