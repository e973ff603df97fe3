"""Where the slices of a DICOM series lie: one regular, right-angled voxel grid, or a reason why there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from highdicom.spatial import create_affine_matrix_from_attributes, get_normal_vector, get_volume_positions

from klip_monai.errors import InputError

POSITION_TOLERANCE_MM = 0.1
"""How far a slice may lie from its place on the regular grid: covers positions rounded to one decimal."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK point left and posterior where MONAI and NIfTI point right and anterior."""

MIN_SLICES = 3

# Slices ascend along row direction x column direction, the order ITK gives them.
_COLUMN_ROW = ("R", "D")
_ORIENTATION_TOLERANCE = 1e-3
_DUPLICATE_MM = 0.01


def series_grid(
    positions: npt.NDArray[np.float64],
    orientation: npt.NDArray[np.float64],
    *,
    pixel_spacing: npt.NDArray[np.float64],
    label: str,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Order the slices of a series along their normal and give the affine of the volume they form.

    Args:
        positions: ImagePositionPatient of each slice, (n, 3), LPS mm.
        orientation: ImageOrientationPatient shared by all slices, (6,), direction cosines of row and column.
        pixel_spacing: PixelSpacing, (2,): mm between rows, mm between columns.
        label: what the error messages call the series.

    Returns:
        The index of the slice at each place along the normal, (n,), and the (4, 4) affine from
        (column, row, slice) to RAS mm (DICOM PS3.3 C.7.6.2.1-1).

    Raises:
        InputError: fewer than three slices, directions that are no right-angled unit vectors, a tilted gantry,
            duplicate or missing slices, or uneven spacing.
    """
    if len(positions) < MIN_SLICES:
        raise InputError(
            f"{label}: got {len(positions)} slice(s), expected at least {MIN_SLICES} of one volume; "
            "give the folder with the whole series"
        )
    if not (pixel_spacing > 0).all():
        raise InputError(
            f"{label}: got PixelSpacing {_show(pixel_spacing)}, expected two sizes above 0 mm; export the series again"
        )
    axes = _right_angled(orientation, label)
    normal = get_normal_vector(axes.tolist(), index_convention=_COLUMN_ROW, handedness="RIGHT_HANDED")
    spacing, places = get_volume_positions(
        positions.tolist(),
        axes.tolist(),
        atol=2 * POSITION_TOLERANCE_MM,
        index_convention=_COLUMN_ROW,
        handedness="RIGHT_HANDED",
    )
    order = np.argsort(positions @ normal, kind="stable")
    # highdicom compares neighbours only and lets a tilt of 2.5 degrees pass; small errors add up to centimetres.
    if spacing is None or places is None or _worst_offset(positions[order], normal, spacing) > POSITION_TOLERANCE_MM:
        raise InputError(f"{label}: {_why_irregular(positions[order], normal)}")
    affine_lps = create_affine_matrix_from_attributes(
        positions[order[0]],
        axes.tolist(),
        pixel_spacing.tolist(),
        spacing_between_slices=spacing,
        index_convention=_COLUMN_ROW,
        handedness="RIGHT_HANDED",
    )
    return order, LPS_TO_RAS @ affine_lps


def _right_angled(orientation: npt.NDArray[np.float64], label: str) -> npt.NDArray[np.float64]:
    """Remove the rounding of the direction cosines, or refuse directions that are more than rounding away."""
    row, column = orientation[:3], orientation[3:]
    gram = np.array([row @ row, column @ column, row @ column])
    if np.abs(gram - [1.0, 1.0, 0.0]).max() > _ORIENTATION_TOLERANCE:
        raise InputError(
            f"{label}: got ImageOrientationPatient {_show(orientation)}, expected two unit vectors at a right angle; "
            "export the series again"
        )
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return np.concatenate([row, column / np.linalg.norm(column)])


def _worst_offset(positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], spacing: float) -> float:
    """Largest distance in mm between a slice and its place on the grid that starts at the first slice."""
    expected = positions[0] + spacing * np.arange(len(positions))[:, None] * normal
    return float(np.linalg.norm(positions - expected, axis=1).max())


def _why_irregular(positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> str:
    """Say why sorted slice positions are no regular volume: the most telling reason, and the way out."""
    along = positions @ normal
    steps = np.diff(along)
    duplicates = np.flatnonzero(steps < _DUPLICATE_MM)
    if len(duplicates):
        return (
            f"got {len(duplicates)} slice(s) at an occupied position, first at {_mm(along[duplicates[0]])}, expected "
            "one slice a position; keep one phase, reconstruction or copy in the folder"
        )
    travel = positions - positions[0]
    sideways = np.linalg.norm(travel - np.outer(travel @ normal, normal), axis=1)
    tilt = np.degrees(np.arctan2(sideways[-1], along[-1] - along[0]))
    if sideways.max() > POSITION_TOLERANCE_MM:
        return (
            f"got slices shifted sideways by up to {_mm(sideways.max())} (gantry tilt of {tilt:.1f} degrees), "
            "expected slices stacked at a right angle; resample to an untilted volume first (dcm2niix does)"
        )
    step = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * step)
    regular = np.abs(steps - step) <= POSITION_TOLERANCE_MM
    if len(gaps) and regular.sum() + len(gaps) == len(steps) and regular.any():
        first = gaps[0]
        return (
            f"got {len(gaps)} gap(s) between slices, first {_mm(steps[first])} wide between {_mm(along[first])} and "
            f"{_mm(along[first + 1])} along the normal, expected a slice every {_mm(step)}; add the missing slices"
        )
    widest = int(steps.argmax())
    return (
        f"got slice distances from {_mm(steps.min())} to {_mm(steps.max())} (widest between {_mm(along[widest])} and "
        f"{_mm(along[widest + 1])} along the normal), expected one distance within {POSITION_TOLERANCE_MM} mm; add "
        "the missing slices or use an evenly spaced reconstruction"
    )


def _mm(value: float) -> str:
    return f"{value:.2f} mm"


def _show(values: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
