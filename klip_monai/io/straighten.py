"""Bring a volume from the leaning grid of a tilted gantry to a right-angled one, for formats that know no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform

from klip_monai.io.checks import MAX_AXIS_COSINE, axis_cosines, slice_axis


def straighten(
    values: npt.NDArray[Any], affine: npt.NDArray[np.float64], *, nearest: bool = False, fill: float = 0.0
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Move each slice within its own plane until all lie on top of each other along their normal.

    Slice planes and in-plane spacing stay; rows or columns are added, so that no voxel is cut off. The new voxels lie
    so that no source voxel is half-way between two of them: nearest-neighbour values are then a mere move, and come
    back as they were when the new grid is looked up at the source voxels.

    Args:
        values: (X, Y, Z).
        affine: (4, 4) voxel-to-RAS matrix in mm; its axes are right-angled within a slice.
        nearest: take the nearest voxel, as labels need; otherwise interpolate linearly within the slice.
        fill: value of the voxels that are added.

    Returns:
        The volume on the right-angled grid, of the same type, and that grid's affine; both as they were given where
        the slice axis does not lean.
    """
    if not leans(affine):
        return values, affine
    axis = slice_axis(affine)
    in_plane = [other for other in range(3) if other != axis]
    # How far a slice lies off the normal through the slice before it, in voxels of the two axes of its plane.
    lean = np.linalg.lstsq(affine[:3, in_plane], affine[:3, axis], rcond=None)[0].round(9)
    shifts = np.arange(values.shape[axis])[:, None] * lean
    origin = np.array([_far_from_halves(shift) for shift in shifts.T])
    shifts -= origin
    first = np.floor(shifts.min(axis=0))
    shifts -= first
    sizes = [values.shape[other] for other in in_plane] + np.ceil(shifts.max(axis=0)).astype(int)
    shape = list(values.shape)
    shape[in_plane[0]], shape[in_plane[1]] = (int(size) for size in sizes)
    straight = np.empty(shape, dtype=values.dtype)
    slices, moved = np.moveaxis(values, axis, 0), np.moveaxis(straight, axis, 0)
    for source, target, shift in zip(slices, moved, shifts, strict=True):
        affine_transform(
            source,
            np.ones(2),
            -(np.floor(shift + 0.5) if nearest else shift),
            output=target,
            order=0 if nearest else 1,
            mode="grid-constant",
            cval=fill,
        )
    upright = affine.copy()
    upright[:3, 3] += affine[:3, in_plane] @ (origin + first)
    upright[:3, axis] -= affine[:3, in_plane] @ lean
    return straight, upright


def leans(affine: npt.NDArray[np.float64]) -> bool:
    """Whether the slice axis of a voxel-to-RAS matrix leans, as it does where the gantry was tilted."""
    return max(axis_cosines(affine)) > MAX_AXIS_COSINE


def _far_from_halves(shifts: npt.NDArray[np.float64]) -> float:
    """Where to put the first voxel, in voxels, so that all shifts are as far as can be from half-way between two."""
    fractions = np.sort(shifts % 1.0)
    gaps = np.diff(fractions, append=fractions[0] + 1)
    widest = int(gaps.argmax())
    return float((fractions[widest] + gaps[widest] / 2 - 0.5) % 1.0)
