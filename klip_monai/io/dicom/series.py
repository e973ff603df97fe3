"""Read one CT series as Hounsfield units on its own voxel grid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from klip_monai.errors import InputError
from klip_monai.io.dicom.files import DicomFiles, ListedFiles
from klip_monai.io.dicom.geometry import SeriesGrid, series_grid
from klip_monai.io.dicom.pixels import check_rescale, iter_stored, numbers, quiet_pydicom, to_hu
from klip_monai.io.dicom.scan import Lost, Scan, describe, scan_headers
from klip_monai.io.dicom.volumes import SAME_TAGS, n_frames, phase_tag, tag_between, text, value_of
from klip_monai.io.kinds import ADVICE, CLOSED, VOLUME, summed
from klip_monai.io.names import pseudonym

_MAX_LISTED = 8
_GIVE = "give the scan's folder, or the .nii.gz or .nrrd file itself"
_SHOWN = 120  # letters of a value in a message
_MAX_SIDE = 8192  # pixels: the largest CT matrices have 2048


@dataclass(frozen=True)
class CTSeries:
    """One CT series.

    Attributes:
        values: float32 HU of shape (X, Y, Z) = (columns, rows, slices), a view that is contiguous within a slice.
            Padding outside the field of view is -1024 HU.
        affine: (4, 4) to RAS mm; its slice axis leans where the gantry was tilted.
        uid: SeriesInstanceUID; may be empty.
        repairs: what was not as it should be, and what was done about it; empty for most series.
        files: names of the files that hold it, below the path that was read.
        frame_of_reference: FrameOfReferenceUID of the patient's coordinates; may be empty.
    """

    values: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    uid: str
    repairs: tuple[str, ...]
    files: tuple[str, ...]
    frame_of_reference: str = ""


@quiet_pydicom()
def read_ct_series(
    path: Path | ListedFiles,
    *,
    series_uid: str | None = None,
    fill_gaps: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CTSeries:
    """Read one CT series as Hounsfield units, slice by slice into a single array.

    Args:
        path: folder, searched with all its subfolders, DICOMDIR, zip or tar archive, one multi-frame file, or files
            listed one by one.
        series_uid: SeriesInstanceUID, or name that `klip-monai inspect` gives it; may be None where there is one CT
            series.
        fill_gaps: interpolate slices that are missing or unevenly spaced, instead of refusing the series.
        progress: called after each slice with (slices read, slices in total).

    Returns:
        The series.

    Raises:
        InputError: no or several CT series, another modality, an irregular or mixed geometry, files that are damaged
            or cannot be decoded, or values that are not HU.
    """
    with DicomFiles(path) as files:
        scan = scan_headers(files)
        key = _choose(scan, path, series_uid)
        if isinstance(path, ListedFiles) and path.series_uid and path.series_uid != key.partition("#")[0]:
            raise InputError(
                f"{path}: got files of another series than when they were listed, expected those; look through the "
                "archive again"
            )
        label = f"series {key[:_SHOWN]}" if key and isinstance(path, Path) else str(path)
        series = read_scanned(files, scan, key, label=label, fill_gaps=fill_gaps, progress=progress)
        return replace(series, repairs=(*series.repairs, *_elsewhere(scan)))


def read_scanned(
    files: DicomFiles,
    scan: Scan,
    key: str,
    *,
    label: str,
    fill_gaps: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CTSeries:
    """Read one volume of files whose headers are known: what this refuses is no scan, for every command.

    Args:
        files: the files, open.
        scan: their headers.
        key: of the volume in ``scan.volumes``.
        label: what the error messages call it.
        fill_gaps: as for :func:`read_ct_series`.
        progress: likewise.

    Raises:
        InputError: another modality, files that may be its slices and cannot be read, an irregular or mixed geometry,
            pixels that cannot be decoded, or values that are not HU.
    """
    headers = scan.volumes[key]
    uid = key.partition("#")[0]
    if (modality := text(headers[0], "Modality")) != "CT":
        raise InputError(f"{label}: got modality {modality[:_SHOWN] or 'not given'}, expected CT; only CT has HU")
    _require_whole(scan.lost.get(uid, ()), label)
    grid = plan_series(headers, label, fill_gaps=fill_gaps)
    slices, seen = np.empty(0, dtype=np.float32), set[int]()
    for index, stored in enumerate(iter_stored(headers, files, label)):
        if not index:  # only now is it sure that a slice has the size that the header says
            slices = _reserve((grid.n_slices, *stored.shape), label)
        header, place = headers[index], int(grid.places[index])
        hu = to_hu(stored, header, f"{label}, {_name(header)}")
        if place in seen and not np.array_equal(slices[place], hu):
            raise InputError(
                f"{label}: got 2 different slices at an occupied position, {_name(header)} and one before it, "
                "expected one slice a position; keep one phase, reconstruction or copy in the folder"
            )
        slices[place] = hu
        seen.add(place)
        if progress is not None:
            progress(index + 1, len(headers))
    names = tuple(dict.fromkeys(header.source.name for header in headers))
    return CTSeries(
        grid.fill(slices).transpose(2, 1, 0),
        grid.affine,
        uid,
        (*grid.repairs, *scan.remarks.get(key, ())),
        names,
        text(headers[0], "FrameOfReferenceUID"),
    )


def plan_series(headers: Sequence[Dataset], label: str, *, fill_gaps: bool = False) -> SeriesGrid:
    """Check that slices form one volume of HU, from their headers alone.

    Args:
        headers: one dataset a slice.
        label: what the error messages call the series.
        fill_gaps: accept slices that are missing or unevenly spaced.

    Returns:
        The grid, and the place of each slice on it.

    Raises:
        InputError: mixed or irregular geometry, several phases, or values that are not HU.
    """
    grid = _grid(headers, label, fill_gaps=fill_gaps)
    for header in headers:
        check_rescale(header, f"{label}, {_name(header)}")
    repeated = [place for place, count in Counter(grid.places.tolist()).items() if count > 1]
    for place in repeated:
        tag = phase_tag([headers[index] for index in np.flatnonzero(grid.places == place).tolist()])
        if tag:
            raise InputError(
                f"{label}: got {len(repeated)} occupied position(s) with slices that differ in {tag}, expected one "
                "volume; keep one phase or reconstruction in the folder"
            )
    return grid


def _require_whole(lost: Sequence[Lost], label: str) -> None:
    """Refuse a series that may have lost slices, if only at its ends, where no gap tells."""
    if lost:
        what = summed(Counter(one.what for one in lost).most_common())
        raise InputError(
            f"{label}: got {what} among its files, first {Path(lost[0].name).name!r}, expected complete DICOM files; "
            "copy them again, or move them elsewhere if they are none of its slices"
        )


def _elsewhere(scan: Scan) -> tuple[str, ...]:
    """What is said of files that could not be looked into, and of which nobody knows the series."""
    closed = Counter({what: scan.passed_over[what] for what in CLOSED}) + Counter(one.what for one in scan.damaged)
    return (f"not looked into: {summed(closed.most_common())}, of unknown series",) if closed else ()


def _reserve(shape: tuple[int, ...], label: str) -> npt.NDArray[np.float32]:
    """Memory for all slices, (slices, rows, columns)."""
    try:
        return np.empty(shape, dtype=np.float32)
    except MemoryError as error:
        raise InputError(
            f"{label}: got {' x '.join(map(str, shape))} voxels, which take {4e-9 * math.prod(shape):.1f} GB, expected "
            "what fits into memory; use a machine that has more"
        ) from error


def _choose(scan: Scan, path: Path | ListedFiles, series_uid: str | None) -> str:
    """Pick the one CT series that is meant, or say what is there instead."""
    found = scan.volumes
    ct = {key: headers for key, headers in found.items() if text(headers[0], "Modality") == "CT"}
    if series_uid is not None:
        chosen = [key for key in found if series_uid in (key, pseudonym(key))]
        if not chosen:
            parts = {key: headers for key, headers in found.items() if key.partition("#")[0] == series_uid}
            raise InputError(
                f"series_uid: got {series_uid!r}, expected one under {path}; found {_list(parts or found)}"
            )
        if chosen[0] not in ct:
            raise InputError(
                f"series_uid: got {describe(chosen[0], found[chosen[0]])}, expected a CT series; found {_list(ct)}"
            )
        return chosen[0]
    if not found:
        others = (
            scan.passed_over + Counter({VOLUME: len(scan.volume_files)}) + Counter(one.what for one in scan.damaged)
        )
        way_out = next((ADVICE[what] for what in ADVICE if what in others), _GIVE)
        there = summed(others.most_common()) or "no file"
        raise InputError(f"{path}: got {there}, expected the DICOM files of a CT series; {way_out}")
    if not ct:
        raise InputError(f"{path}: got {_list(found)}, expected a CT series; only CT has Hounsfield units")
    if len(ct) > 1:
        raise InputError(f"{path}: got {len(ct)} CT series, expected one; choose one with --series-uid: {_list(ct)}")
    return next(iter(ct))


def _grid(headers: Sequence[Dataset], label: str, *, fill_gaps: bool) -> SeriesGrid:
    """Check that all slices share size, spacing and orientation, then order them."""
    if not headers:
        raise InputError(f"{label}: got no slices, expected the frames of one volume; export the series again")
    for header in headers:
        frames, samples = n_frames(header), int(header.get("SamplesPerPixel") or 1)
        if frames != 1 or samples != 1:
            raise InputError(
                f"{label}: got {frames} frame(s) of {samples} value(s) a pixel in {_name(header)}, expected one grey "
                "slice a file; export the series again"
            )
    largest = max(max(header.Rows, header.Columns) for header in headers)
    if largest > _MAX_SIDE:
        raise InputError(
            f"{label}: got a slice of {largest} rows or columns, expected at most {_MAX_SIDE}; export the series again"
        )
    _require_same("Rows x Columns", [f"{header.Rows} x {header.Columns}" for header in headers], label)
    for tag in ("FrameOfReferenceUID", *SAME_TAGS):
        _require_same(tag, [value_of(header, tag) for header in headers], label)
    if len({text(header, "PatientID") for header in headers}) > 1:
        raise InputError(f"{label}: got slices of several patients, expected one PatientID; keep those of one patient")
    spacing = np.array([numbers(header, "PixelSpacing", count=2, label=label) for header in headers])
    orientation = np.array([numbers(header, "ImageOrientationPatient", count=6, label=label) for header in headers])
    positions = np.array([numbers(header, "ImagePositionPatient", count=3, label=label) for header in headers])
    # Rounding may differ from slice to slice by the last digit written.
    _require_same("PixelSpacing", [str((row.round(4) + 0.0).tolist()) for row in spacing], label, spacing, 1e-4)
    _require_same(
        "ImageOrientationPatient", [str((row.round(4) + 0.0).tolist()) for row in orientation], label, orientation, 1e-4
    )
    return series_grid(positions, orientation[0], pixel_spacing=spacing[0], label=label, fill_gaps=fill_gaps)


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
        found = ", ".join(f"{value[:_SHOWN]} on {count} slice(s)" for value, count in counts[:3])
        raise InputError(
            f"{label}: got mixed {tag} ({found}), expected one for all slices; keep the slices of one geometry"
        )


def _list(volumes: Mapping[str, Sequence[Dataset]]) -> str:
    """Name the series of a message, the first few of many."""
    parts: dict[str, list[Dataset]] = {}
    for key, headers in volumes.items():
        parts.setdefault(key.partition("#")[0], []).append(headers[0])
    shown = "; ".join(
        describe(key, headers, tag_between(parts[key.partition("#")[0]]))
        for key, headers in list(volumes.items())[:_MAX_LISTED]
    )
    return (shown or "none") + (f"; and {len(volumes) - _MAX_LISTED} more" if len(volumes) > _MAX_LISTED else "")


def _name(header: Dataset) -> str:
    return repr(Path(str(header.filename)).name)
