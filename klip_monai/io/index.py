"""What lies under a path: every image series with its geometry and a verdict, from the headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.orientations import aff2axcodes
from pydicom import Dataset

from klip_monai.errors import InputError
from klip_monai.io.dicom import plan_series, slice_headers
from klip_monai.io.dicom_files import DicomFiles
from klip_monai.io.dicom_geometry import LPS_TO_RAS
from klip_monai.io.dicom_pixels import numbers, quiet_pydicom
from klip_monai.io.dicom_scan import n_frames, pseudonym, scan_headers, text

Verdict = Literal["usable", "usable after repair", "refused"]
_PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}
_OBLIQUE_DEGREES = 1.0


@dataclass(frozen=True)
class SeriesInfo:
    """One image series, or one volume of a series that has several; carries no name or ID of the patient.

    Attributes:
        name: pseudonym made from the series UID; ``--series-uid`` takes it, too.
        series_uid: SeriesInstanceUID; empty if de-identification removed it; ends in #1, #2, ... for the volumes of a
            series that has several (phases, energies, kernels).
        modality: "CT", "MR", ...; empty if the files do not say.
        description: SeriesDescription; empty if the files do not say.
        n_files: number of files, localizers left out.
        n_slices: number of slices (frames of all files), repeats among them.
        rows: rows of the first slice.
        columns: columns of the first slice.
        orientation: "axial", "coronal" or "sagittal", with "oblique" before it where it is off by over a degree; empty
            if the files do not say.
        spacing_mm: between columns, rows and slices; None where the files do not say, or slices are not evenly spaced.
        kernel: ConvolutionKernel; empty if the files do not say.
        contrast: ContrastBolusAgent; empty if there was none or the files do not say.
        verdict: whether :func:`klip_monai.io.read_volume` reads it, as far as headers can tell.
        reason: the repair, or why it is refused; empty where it is usable.
        folder: deepest folder that holds all files of the series, or the archive.
    """

    name: str
    series_uid: str
    modality: str
    description: str
    n_files: int
    n_slices: int
    rows: int
    columns: int
    orientation: str
    spacing_mm: tuple[float | None, float | None, float | None]
    kernel: str
    contrast: str
    verdict: Verdict
    reason: str
    folder: Path

    def describe(self) -> dict[str, Any]:
        """JSON-able description without UIDs and paths, which may tell who the patient is."""
        return {key: value for key, value in asdict(self).items() if key not in ("series_uid", "folder")}


@dataclass(frozen=True)
class SeriesIndex:
    """What lies under a path.

    Attributes:
        series: the image series, sorted by SeriesInstanceUID.
        passed_over: number of localizers, reports, files that are not DICOM, ...
        damaged: number of DICOM files whose header cannot be read.
    """

    series: list[SeriesInfo]
    passed_over: Mapping[str, int]
    damaged: int

    def describe(self) -> dict[str, Any]:
        """JSON-able description without anything that tells who the patient is."""
        return {
            "series": [info.describe() for info in self.series],
            "passed_over": dict(self.passed_over),
            "damaged": self.damaged,
        }


@quiet_pydicom()
def index_series(path: str | os.PathLike[str], *, fill_gaps: bool = False) -> SeriesIndex:
    """Index the DICOM series of every modality under a path; pixels are not read, archives are not unpacked.

    Args:
        path: folder (searched with all its subfolders; names and extensions do not matter), DICOMDIR, zip or tar
            archive, or one file.
        fill_gaps: judge series as :func:`klip_monai.io.read_volume` with ``repair=("gaps",)`` would.

    Raises:
        InputError: the path does not exist; a damaged archive, or one that unpacks to over 200 times its size.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"path: got {str(path)!r}, expected an existing folder, DICOMDIR, zip or tar with DICOM files; "
            "check the path"
        )
    with DicomFiles(path) as files:
        scan = scan_headers(files)
        series = [_info(key, headers, files, fill_gaps=fill_gaps) for key, headers in scan.volumes.items()]
    return SeriesIndex(series, dict(sorted(scan.passed_over.items())), len(scan.damaged))


def list_series(path: str | os.PathLike[str]) -> list[SeriesInfo]:
    """The series of :func:`index_series`."""
    return index_series(path).series


def _info(key: str, headers: Sequence[Dataset], files: DicomFiles, *, fill_gaps: bool) -> SeriesInfo:
    """Summarise and judge one volume."""
    first, modality, name = headers[0], text(headers[0], "Modality"), pseudonym(key)
    slices, step = headers, None
    verdict: Verdict = "refused"
    try:
        if modality != "CT":
            raise InputError(f"{modality or 'no modality'}: only CT has Hounsfield units")
        slices = slice_headers(_nameless(headers), files, name)
        grid = plan_series(_nameless(slices), name, fill_gaps=fill_gaps)
        step = float(np.linalg.norm(grid.affine[:3, 2]))
        verdict, reason = ("usable after repair" if grid.repairs else "usable"), "; ".join(grid.repairs)
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ").removeprefix(f"{name}, ")
    orientation, rows_mm, columns_mm = _plane(slices[0] if slices else first)
    folders = [str(header.source.path if header.source.member else header.source.path.parent) for header in headers]
    return SeriesInfo(
        name=name,
        series_uid=key,
        modality=modality,
        description=text(first, "SeriesDescription"),
        n_files=len(headers),
        n_slices=sum(map(n_frames, headers)),
        rows=int(first.Rows),
        columns=int(first.Columns),
        orientation=orientation,
        spacing_mm=(columns_mm, rows_mm, None if step is None else round(step, 4)),
        kernel=text(first, "ConvolutionKernel"),
        contrast=text(first, "ContrastBolusAgent"),
        verdict=verdict,
        reason=reason,
        folder=Path(os.path.commonpath(folders)),
    )


def _nameless(headers: Sequence[Dataset]) -> Sequence[Dataset]:
    """Number the files in what is said about them: file names may be patient names."""
    for number, header in enumerate(headers, start=1):
        header.filename = f"file or frame {number}"
    return headers


def _plane(header: Dataset) -> tuple[str, float | None, float | None]:
    """Orientation of a slice, and mm between its rows and columns, as far as its header says."""
    orientation, rows_mm, columns_mm = "", None, None
    try:
        rows_mm, columns_mm = (
            round(float(value), 4) for value in numbers(header, "PixelSpacing", count=2, label="slice")
        )
        cosines = numbers(header, "ImageOrientationPatient", count=6, label="slice")
        affine = np.eye(4)
        affine[:3, :3] = np.stack([cosines[:3], cosines[3:], np.cross(cosines[:3], cosines[3:])], axis=1)
        affine = LPS_TO_RAS @ affine
        off = np.degrees(np.arccos(min(1.0, np.abs(affine[:3, 2]).max())))
        plane = _PLANES[str(aff2axcodes(affine)[2])]
        orientation = f"oblique {plane}" if off > _OBLIQUE_DEGREES else plane
    except (InputError, KeyError, ValueError):
        pass
    return orientation, rows_mm, columns_mm
