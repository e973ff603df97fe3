"""Small CT series written with pydicom for the tests of the readers, and how a path is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from klip_monai.errors import InputError
from klip_monai.io import read_volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def sample_hu(n_slices: int = 5, rows: int = 16, columns: int = 12, seed: int = 0) -> np.ndarray:
    """Random whole HU, (slices, rows, columns), no two slices alike."""
    return np.random.default_rng(seed).integers(-1000, 1500, (n_slices, rows, columns)).astype(np.int16)


def normal_of(orientation: tuple[float, ...]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    orientation: tuple[float, ...] = AXIAL,
    origin: tuple[float, float, float] = (-20.0, -30.0, 40.0),
    pixel_spacing: tuple[float, float] = (0.8, 0.7),
    step: float = 2.0,
    series_uid: str | None = None,
    edit: Callable[[int, Dataset], None] | None = None,
    finish: Callable[[Dataset], None] | None = None,
) -> str:
    """Write one file a slice under shuffled names without extension; `edit` changes dataset k before saving."""
    folder.mkdir(parents=True, exist_ok=True)
    series_uid = series_uid or generate_uid()
    study_uid, frame_uid = generate_uid(), generate_uid()
    names = np.random.default_rng(1).permutation(len(hu))
    for k, slice_hu in enumerate(hu):
        ds = _image(slice_hu + 1024, CTImageStorage)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
        ds.Modality, ds.ImageType, ds.SeriesDescription = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "portal venous"
        ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
        ds.PixelSpacing = list(pixel_spacing)
        ds.ImageOrientationPatient = [f"{value:.13f}"[:16] for value in orientation]
        position = np.array(origin) + k * step * normal_of(orientation)
        ds.ImagePositionPatient = [f"{value:.13f}"[:16] for value in position]
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        if edit is not None:
            edit(k, ds)
        if finish is not None:
            finish(ds)
        ds.save_as(folder / f"I{names[k]}", enforce_file_format=True)
    return series_uid


def tilted(degrees: float) -> tuple[float, ...]:
    """ImageOrientationPatient of axial slices under a tilted gantry."""
    tilt = np.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(-np.sin(tilt)))


def write_tilted(folder: Path, hu: np.ndarray, degrees: float) -> str:
    """Write a series whose table moves by 5 mm along z while the slices lean by the gantry's tilt."""

    def edit(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = [-20, -30, 40 + 5 * k]

    return write_series(folder, hu, orientation=tilted(degrees), edit=edit)


def write_enhanced(
    path: Path,
    hu: np.ndarray,
    *,
    step: float = 2.0,
    unit: str = "HU",
    orientation: tuple[float, ...] = AXIAL,
    edit: Callable[[int, Dataset], None] | None = None,
) -> None:
    """Write one multi-frame file whose frames are stored out of order, each with its own rescale.

    The table moves along z, whatever the orientation; `edit` changes the functional groups of frame k.
    """
    order = np.random.default_rng(2).permutation(len(hu))
    ds = _image(np.stack([hu[k] + 1024 - k for k in order]), EnhancedCTImageStorage)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    ds.Modality, ds.ImageType, ds.NumberOfFrames = "CT", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(hu)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], step
    plane.ImageOrientationPatient = list(orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-20.0, -30.0, 40.0 + step * float(k)]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024 + int(k), unit
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Sequence([position]), Sequence([values])
        if edit is not None:
            edit(int(k), frame)
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.save_as(path, enforce_file_format=True)


def _image(stored: np.ndarray, sop_class: str) -> Dataset:
    """A dataset with the file meta group and the pixels of an unsigned 16-bit image."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def refusal(path: Path, **options: str) -> str:
    """The one-line message with which a path is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            read_volume(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    assert ";" in message
    assert "Secret" not in message
    assert "SECRET" not in message
    return message
