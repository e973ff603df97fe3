"""Where the slices of a DICOM series lie: one regular voxel grid, or a reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klip_monai.errors import InputError

POSITION_TOLERANCE_MM = 0.1
"""How far a slice may lie from its place on the regular grid: covers positions rounded to one decimal."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK point left and posterior where MONAI and NIfTI point right and anterior."""

MIN_SLICES = 3

MAX_GAP_MM = 10.0
"""Slices are interpolated over no more than this: anything larger hides lesions."""

MAX_TILT_DEGREES = 35.0
"""CT gantries tilt by up to 30 degrees."""

_ORIENTATION_TOLERANCE = 1e-3
_DUPLICATE_MM = 0.01
_REPAIR = ", or interpolate them with --repair gaps"


@dataclass(frozen=True)
class SeriesGrid:
    """A regular voxel grid and where the slices of a series lie on it.

    Attributes:
        places: place of each slice among the distinct ones, (n,), ascending along the normal; repeats share one.
        heights: place of each distinct slice on the grid, in slices from its first; whole numbers unless interpolated.
        affine: (4, 4) from (column, row, slice) to RAS mm (DICOM PS3.3 C.7.6.2.1-1).
        repairs: what was not as it should be, and what is done about it.
    """

    places: npt.NDArray[np.intp]
    heights: npt.NDArray[np.float64]
    affine: npt.NDArray[np.float64]
    repairs: tuple[str, ...]

    @property
    def n_slices(self) -> int:
        """Number of distinct slices."""
        return len(self.heights)

    def fill(self, slices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Bring the distinct slices, (n_slices, rows, columns), to the grid, by linear interpolation between two."""
        wanted = np.arange(round(float(self.heights[-1])) + 1)
        if np.array_equal(self.heights, wanted):
            return slices
        filled = np.empty((len(wanted), *slices.shape[1:]), dtype=np.float32)
        below = np.clip(np.searchsorted(self.heights, wanted, side="right") - 1, 0, len(slices) - 2)
        share = (wanted - self.heights[below]) / np.diff(self.heights)[below]
        for place, (index, weight) in enumerate(zip(below, share.astype(np.float32), strict=True)):
            filled[place] = slices[index] if weight == 0 else slices[index + 1]
            if 0 < weight < 1:
                filled[place] = (1 - weight) * slices[index] + weight * slices[index + 1]
        return filled


def series_grid(
    positions: npt.NDArray[np.float64],
    orientation: npt.NDArray[np.float64],
    *,
    pixel_spacing: npt.NDArray[np.float64],
    label: str,
    fill_gaps: bool = False,
) -> SeriesGrid:
    """Order the slices of a series along their normal and give the grid they lie on.

    A tilted gantry shifts each slice within its own plane. That is kept: the slice axis of the affine leans by the
    tilt, so that every voxel stays where it was measured and nothing is resampled.

    Args:
        positions: ImagePositionPatient of each slice, (n, 3), LPS mm.
        orientation: ImageOrientationPatient shared by all slices, (6,), direction cosines of row and column.
        pixel_spacing: PixelSpacing, (2,): mm between rows, mm between columns.
        label: what the error messages call the series.
        fill_gaps: where slices are missing or unevenly spaced, give a regular grid to interpolate on.

    Returns:
        The grid.

    Raises:
        InputError: fewer than three slices, directions that are no right-angled unit vectors, slices shifted
            sideways, missing slices, or uneven spacing.
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
    normal = np.cross(axes[:3], axes[3:])  # slices ascend along it, the order ITK gives them
    order = np.argsort(positions @ normal, kind="stable")
    ranks = np.concatenate([[0], np.cumsum(np.diff(positions[order] @ normal) >= _DUPLICATE_MM)])
    places = np.empty(len(positions), dtype=np.intp)
    places[order] = ranks
    distinct = positions[order][np.unique(ranks, return_index=True)[1]]
    repeats = len(positions) - len(distinct)
    if len(distinct) < MIN_SLICES:
        raise InputError(
            f"{label}: got {repeats} slice(s) at an occupied position, and {len(distinct)} elsewhere, expected at "
            f"least {MIN_SLICES} slices of one volume; give the folder with the whole series"
        )
    repairs = [f"{repeats} repeated slice(s) of the same pixels dropped"] if repeats else []
    direction, tilt = _slice_direction(distinct, normal, label)
    expected = distinct[places] - positions
    if np.linalg.norm(expected, axis=1).max() > POSITION_TOLERANCE_MM:
        raise InputError(f"{label}: {_shifted(float(np.linalg.norm(expected, axis=1).max()))}")
    if tilt:
        repairs.append(f"gantry tilt of {tilt:.1f} degrees, kept on the tilted grid")
    along = (distinct - distinct[0]) @ normal
    step, heights = along[-1] / (len(along) - 1), np.arange(len(along), dtype=np.float64)
    # Small errors add up to centimetres: each slice is held against its place, not against its neighbour.
    if np.abs(along - step * heights).max() > POSITION_TOLERANCE_MM:
        if not fill_gaps or np.diff(along).max() > MAX_GAP_MM + POSITION_TOLERANCE_MM:
            raise InputError(f"{label}: {_why_irregular(distinct @ normal)}")
        # Of uneven distances a short one, so that no slice is lost between two of the grid.
        n_slices = round(along[-1] / float(np.quantile(np.diff(along), 0.25))) + 1
        step = along[-1] / (n_slices - 1)
        heights = along / step
        near = np.abs(heights - heights.round()) * step <= POSITION_TOLERANCE_MM
        heights = np.where(near, heights.round(), heights)
        made = n_slices - len(set(np.arange(n_slices)) & set(heights.tolist()))
        repairs.append(f"{made} of {n_slices} slices interpolated over gaps of up to {_mm(np.diff(along).max())}")
    affine_lps = np.eye(4)
    sides = (axes[:3] * pixel_spacing[1], axes[3:] * pixel_spacing[0], step * direction)
    affine_lps[:3] = np.column_stack([*sides, distinct[0]])
    return SeriesGrid(places, heights, LPS_TO_RAS @ affine_lps, tuple(repairs))


def _slice_direction(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], label: str
) -> tuple[npt.NDArray[np.float64], float]:
    """Way from slice to slice for 1 mm along the normal, and its tilt in degrees: 0 where it is the normal itself."""
    travel = positions - positions[0]
    along = travel @ normal
    sideways = np.linalg.norm(travel - np.outer(along, normal), axis=1)
    if sideways.max() <= POSITION_TOLERANCE_MM:
        return normal, 0.0
    direction = travel[-1] / along[-1]
    tilt = float(np.degrees(np.arccos(min(1.0, 1 / np.linalg.norm(direction)))))
    astray = float(np.linalg.norm(travel - np.outer(along, direction), axis=1).max())
    if astray > POSITION_TOLERANCE_MM:
        raise InputError(f"{label}: {_shifted(astray)}")
    if tilt > MAX_TILT_DEGREES:
        raise InputError(
            f"{label}: got a gantry tilt of {tilt:.1f} degrees, expected at most {MAX_TILT_DEGREES:.0f}; check "
            "ImagePositionPatient and ImageOrientationPatient"
        )
    return direction, tilt


def _shifted(distance: float) -> str:
    return (
        f"got slices shifted sideways by up to {_mm(distance)}, expected slices stacked in one straight line; "
        "keep the slices of one volume"
    )


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


def _why_irregular(along: npt.NDArray[np.float64]) -> str:
    """Say why distances along the normal are no regular volume: the most telling reason, and the way out."""
    steps = np.diff(along)
    step = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * step)
    regular = np.abs(steps - step) <= POSITION_TOLERANCE_MM
    if len(gaps) and regular.sum() + len(gaps) == len(steps) and regular.any():
        first = gaps[0]
        return (
            f"got {len(gaps)} gap(s) between slices, first {_mm(steps[first])} wide between {_mm(along[first])} and "
            f"{_mm(along[first + 1])} along the normal, expected a slice every {_mm(step)}; add the missing "
            f"slices{_REPAIR if steps.max() <= MAX_GAP_MM else ''}"
        )
    widest = int(steps.argmax())
    return (
        f"got slice distances from {_mm(steps.min())} to {_mm(steps.max())} (widest between {_mm(along[widest])} and "
        f"{_mm(along[widest + 1])} along the normal), expected one distance within {POSITION_TOLERANCE_MM} mm; add "
        f"the missing slices or use an evenly spaced reconstruction{_REPAIR if steps.max() <= MAX_GAP_MM else ''}"
    )


def _mm(value: float) -> str:
    return f"{value:.2f} mm"


def _show(values: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
