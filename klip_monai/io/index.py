"""What lies under a path: every image series with its geometry, and a verdict by the reader itself."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from nibabel.orientations import aff2axcodes
from pydicom import Dataset

from klip_monai.errors import InputError
from klip_monai.io.checks import check_volume, read_volume_file
from klip_monai.io.dicom.files import DicomFiles
from klip_monai.io.dicom.geometry import LPS_TO_RAS
from klip_monai.io.dicom.pixels import numbers, quiet_pydicom
from klip_monai.io.dicom.scan import Scan, scan_headers
from klip_monai.io.dicom.series import read_scanned
from klip_monai.io.dicom.volumes import n_frames, text
from klip_monai.io.formats import FILE_FORMATS, suffix_of
from klip_monai.io.kinds import DAMAGED
from klip_monai.io.names import file_name, pseudonym

Verdict = Literal["usable", "usable after repair", "refused"]
_PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}
_OBLIQUE_DEGREES = 1.0


@dataclass(frozen=True)
class SeriesInfo:
    """One image series, or one volume of a series that has several; carries no name or ID of the patient.

    Attributes:
        name: that of the case, a pseudonym made from the series UID; ``--series-uid`` takes it, too. A NIfTI, NRRD or
            MetaImage file is named by its bytes.
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
        damaged: number of DICOM files whose header cannot be read; the verdict of a series tells if it may miss them.
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
    """Index the series of every modality under a path, and judge them as scoring would: by reading them.

    Nothing is unpacked to disk. Pixels are read of CT series whose headers are sound, one series at a time.

    Args:
        path: folder (searched with all its subfolders and archives; names and extensions do not matter), DICOMDIR,
            zip or tar archive, or one file, of NIfTI, NRRD or MetaImage, too.
        fill_gaps: judge series as :func:`klip_monai.io.read_volume` with ``repair=("gaps",)`` would.

    Raises:
        InputError: the path does not exist; a damaged archive, or one that unpacks to over 200 times its size.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"path: got {str(path)!r}, expected an existing folder, DICOMDIR, zip or tar with DICOM files, or a NIfTI, "
            "NRRD or MetaImage file; check the path"
        )
    with DicomFiles(path) as files:
        scan = scan_headers(files)
        series = [_info(files, scan, key, fill_gaps=fill_gaps) for key in scan.volumes]
    series += [_info_of_file(file.path) for file in scan.volume_files]
    passed_over = scan.passed_over + Counter(one.what for one in {*scan.damaged, *chain(*scan.lost.values())})
    n_damaged = passed_over.pop(DAMAGED, 0)
    return SeriesIndex(series, dict(sorted(passed_over.items())), n_damaged)


def list_series(path: str | os.PathLike[str]) -> list[SeriesInfo]:
    """The series of :func:`index_series`."""
    return index_series(path).series


def _info(files: DicomFiles, scan: Scan, key: str, *, fill_gaps: bool) -> SeriesInfo:
    """Summarise one volume, and judge it by reading it."""
    headers, name = scan.volumes[key], pseudonym(key)
    first, uid, step = headers[0], key.partition("#")[0], None
    # Names of files may be those of patients.
    lost = {uid: [one._replace(name=f"file {n}") for n, one in enumerate(scan.lost.get(uid, ()), start=1)]}
    nameless = replace(scan, volumes={key: _nameless(headers)}, lost=lost)
    verdict: Verdict = "refused"
    try:
        series = read_scanned(files, nameless, key, label=name, fill_gaps=fill_gaps)
        check_volume(series.values, series.affine, name)
        step = float(np.linalg.norm(series.affine[:3, 2]))
        verdict, reason = ("usable after repair" if series.repairs else "usable"), "; ".join(series.repairs)
    except InputError as error:
        reason = str(error).removeprefix(f"{name}: ").removeprefix(f"{name}, ")
    orientation, rows_mm, columns_mm = _plane(first)
    folders = [str(header.source.path if header.source.member else header.source.path.parent) for header in headers]
    return SeriesInfo(
        name=name,
        series_uid=key,
        modality=text(first, "Modality"),
        description=text(first, "SeriesDescription"),
        n_files=len({header.source.name for header in headers}),
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


def _info_of_file(path: Path) -> SeriesInfo:
    """Summarise and judge a NIfTI, NRRD or MetaImage file, which is a series of its own."""
    suffix = suffix_of(path)
    name, shape, orientation, reason = file_name(path), (0, 0, 0), "", ""
    spacing: tuple[float | None, float | None, float | None] = (None, None, None)
    verdict: Verdict = "refused"
    try:
        values, affine = read_volume_file(path, FILE_FORMATS[suffix])
        shape = values.shape
        check_volume(values, affine, str(path))
        verdict = "usable"
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        spacing = (float(sizes[0]), float(sizes[1]), float(sizes[2]))
        orientation = _orientation(affine)
    except InputError as error:
        reason = str(error).replace(f"{path}: ", "").replace(str(path), "the file")
    return SeriesInfo(
        name=name,
        series_uid="",
        modality="",
        description=f"{suffix} file",
        n_files=1,
        n_slices=shape[2],
        rows=shape[1],
        columns=shape[0],
        orientation=orientation,
        spacing_mm=spacing,
        kernel="",
        contrast="",
        verdict=verdict,
        reason=reason,
        folder=path.parent,
    )


def _nameless(headers: list[Dataset]) -> list[Dataset]:
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
        orientation = _orientation(LPS_TO_RAS @ affine)
    except (InputError, KeyError, ValueError):
        pass
    return orientation, rows_mm, columns_mm


def _orientation(affine: npt.NDArray[np.float64]) -> str:
    """Which plane the slices of an affine to RAS lie in."""
    across = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    off = np.degrees(np.arccos(min(1.0, np.abs(across).max())))
    plane = _PLANES[str(aff2axcodes(affine)[2])]
    return f"oblique {plane}" if off > _OBLIQUE_DEGREES else plane
