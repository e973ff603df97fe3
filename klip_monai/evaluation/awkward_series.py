"""CT series that readers stumble over, each showing a smooth field that is known at every point of the patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Edit = Callable[[int, Dataset], None]

_ROWS, _COLUMNS, _SLICES = 40, 36, 12
_PIXEL_MM, _STEP_MM = (0.8, 0.7), 2.0
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Slice:
    """One slice to write.

    Attributes:
        position: ImagePositionPatient, LPS mm.
        orientation: ImageOrientationPatient.
        phase: HU added to the field.
        shift_mm: how far the field is drawn from where the header says: not 0 for contradicting slices.
    """

    position: NDArray[np.float64]
    orientation: tuple[float, ...] = _AXIAL
    phase: float = 0.0
    shift_mm: float = 0.0

    @property
    def points(self) -> NDArray[np.float64]:
        """Centres of its pixels, LPS mm, (rows, columns, 3)."""
        indices = np.stack(np.meshgrid(np.arange(_COLUMNS), np.arange(_ROWS)), axis=-1)
        return self.at(indices, _PIXEL_MM)

    def at(self, indices: NDArray[Any], spacing: tuple[float, ...]) -> NDArray[np.float64]:
        """Centres of pixels (column, row), LPS mm, (..., 3); PixelSpacing in mm (between rows, between columns)."""
        axes = np.array([self.orientation[:3], self.orientation[3:]], dtype=np.float64)
        return np.asarray(self.position + (indices * spacing[::-1]) @ axes)

    @property
    def hu(self) -> NDArray[np.float64]:
        """The field at its pixels, (rows, columns)."""
        return field(self.points + self.shift_mm) + self.phase


@dataclass(frozen=True)
class AwkwardSeries:
    """A series, and what a reader may do with it.

    Attributes:
        name: for the table.
        slices: its slices in file order.
        edit: changes the dataset of slice k before it is saved.
        phases: HU offsets of the volumes that it holds; empty where there is no right answer but to refuse.
    """

    name: str
    slices: Sequence[Slice]
    edit: Edit | None = None
    phases: tuple[float, ...] = (0.0,)


def field(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth HU, -900 to 300, at points (..., 3), LPS mm; without a symmetry that would hide a flip."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.asarray(-300 + 200 * np.sin(x / 9 + 0.3) + 200 * np.sin(y / 11 + z / 23) + 200 * np.sin(z / 8 + 1.1))


def stack(n_slices: int = _SLICES, *, orientation: tuple[float, ...] = _AXIAL, **changes: float) -> list[Slice]:
    """Slices along their normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    origin = np.array([-12.0, -15.0, 30.0])
    return [Slice(origin + k * _STEP_MM * normal, orientation, **changes) for k in range(n_slices)]


def awkward_series() -> list[AwkwardSeries]:
    """All synthetic cases of the table."""
    plain, cos, sin = stack(), float(np.cos(np.radians(15))), float(np.sin(np.radians(15)))
    tilted = (1.0, 0.0, 0.0, 0.0, cos, -sin)
    leaning = [Slice(np.array([-12.0, -15.0, 30.0 + 2 * k]), tilted) for k in range(_SLICES)]
    uneven = [Slice(s.position + np.array([0, 0, 0.05 * k**2])) for k, s in enumerate(plain)]
    both = [*stack(), *stack(phase=250.0)]
    # The field drawn in one slice lies 9 mm off: two slices claim one place.
    conflict = [*plain, Slice(plain[4].position, shift_mm=9.0)]

    def tag(name: str, value: Callable[[int], Any]) -> Edit:
        return lambda k, ds: setattr(ds, name, value(k))

    def compress(syntax: str) -> Edit:
        return lambda _, ds: ds.compress(syntax)

    def big_endian(_: int, ds: Dataset) -> None:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian

    def own_rescale(k: int, ds: Dataset) -> None:
        stored = np.frombuffer(ds.PixelData, "<u2").astype(np.int64) - 1024
        ds.RescaleSlope, ds.RescaleIntercept = 1 + k % 2, -1024 - 2 * k
        ds.PixelData = ((stored + 1024 + 2 * k) // (1 + k % 2)).astype("<u2").tobytes()

    def no_position(k: int, ds: Dataset) -> None:
        if k == 3:
            del ds.ImagePositionPatient

    def no_hu(_: int, ds: Dataset) -> None:
        ds.RescaleType, ds.RescaleIntercept = "US", 0

    return [
        AwkwardSeries("plain axial, numbered out of order", plain[::2] + plain[1::2]),
        AwkwardSeries("sagittal", stack(orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))),
        AwkwardSeries("oblique", stack(orientation=(cos, sin, 0.0, -sin * cos, cos * cos, -sin))),
        AwkwardSeries("prone, feet first", stack(orientation=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0))),
        AwkwardSeries("gantry tilt of 15 degrees", leaning, tag("GantryDetectorTilt", lambda _: 15)),
        AwkwardSeries("one slice twice", [*plain, plain[4]]),
        AwkwardSeries("two slices in one place", conflict, phases=()),
        AwkwardSeries("one slice missing", plain[:4] + plain[5:]),
        AwkwardSeries("uneven spacing", uneven),
        AwkwardSeries(
            "two time points",
            both,
            tag("TemporalPositionIdentifier", lambda k: 1 + k // _SLICES),
            phases=(0.0, 250.0),
        ),
        AwkwardSeries(
            "two series in one folder",
            both,
            tag("SeriesInstanceUID", lambda k: f"1.2.3.{1 + k // _SLICES}"),
            phases=(0.0, 250.0),
        ),
        AwkwardSeries("rescale of its own in each slice", plain, own_rescale),
        AwkwardSeries("not HU (RescaleType US)", plain, no_hu, phases=()),
        AwkwardSeries("big-endian", plain, big_endian),
        AwkwardSeries("RLE", plain, compress(RLELossless)),
        AwkwardSeries("JPEG-LS", plain, compress(JPEGLSLossless)),
        AwkwardSeries("JPEG 2000", plain, compress(JPEG2000Lossless)),
        AwkwardSeries("no position in one slice", plain, no_position, ()),
    ]


def write_awkward_series(series: AwkwardSeries, folder: Path) -> None:
    """Write one file a slice, without extension."""
    study, frame, uid = generate_uid(), generate_uid(), generate_uid()
    for k, part in enumerate(series.slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, uid, frame
        ds.Modality, ds.ImageType, ds.PatientID = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "phantom"
        ds.SeriesNumber, ds.InstanceNumber, ds.SliceThickness = 1, k + 1, _STEP_MM
        ds.PixelSpacing = list(_PIXEL_MM)
        ds.ImageOrientationPatient = [f"{value:.12f}" for value in part.orientation]
        ds.ImagePositionPatient = [f"{value:.8f}" for value in part.position]
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns, ds.PixelRepresentation = _ROWS, _COLUMNS, 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = (part.hu.round() + 1024).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        if series.edit is not None:
            series.edit(k, ds)
        ds.save_as(folder / f"IM{k:03d}", enforce_file_format=True)
