"""Bring the mask of a region from the grid that it was drawn on to another one, without losing any part of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_TOUCHES = 1e-3  # voxels; what rounding leaves of a centre that lies on the border of two
_CHOICES = tuple(product((False, True), repeat=3))[1:]


def on_grid(
    mask: npt.NDArray[np.bool_],
    affine: npt.NDArray[np.float64],
    *,
    shape: Sequence[int],
    target: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.bool_], float]:
    """Find the voxels of a grid that belong to a region.

    A voxel belongs to it if its centre lies in a voxel of the mask, or on the border of one: on the same grid, also
    turned or flipped, that is the mask itself. Parts of the region (voxels that touch, also at corners) that lie
    between the centres of a coarser grid are not lost: the voxels that hold the centres of theirs belong to it, too.

    Args:
        mask: bool (X, Y, Z), True in the region; not empty.
        affine: (4, 4) of the mask, voxel index to mm.
        shape: (X, Y, Z) of the other grid.
        target: (4, 4) of the other grid, voxel index to the same mm.

    Returns:
        The region on the other grid, bool; and the share of the mask's voxels whose centre that grid covers.
    """
    mask, affine = cropped(mask, affine)
    padded, count = ndimage.label(np.pad(mask, 1), structure=np.ones((3, 3, 3)))
    parts = padded[1:-1, 1:-1, 1:-1]
    to_target = np.linalg.inv(target) @ affine
    region, met = np.zeros(tuple(shape), dtype=bool), np.zeros(count + 1, dtype=bool)
    reached = _reached(parts.shape, to_target, shape)
    rows, columns, slices = (np.arange(side.start, side.stop) for side in reached)
    to_mask = np.linalg.inv(to_target)
    within = to_mask[:3, 0, None, None] * rows[:, None] + to_mask[:3, 1, None, None] * columns
    for k in slices:  # one at a time, as places take much more memory than the mask
        found = _parts_at(padded, within + (to_mask[:3, 2] * k + to_mask[:3, 3])[:, None, None])
        region[reached[0], reached[1], k] = found > 0
        met[found] = True
    covered = _keep_the_rest(region, parts, met, to_target)
    return region, covered / int(np.count_nonzero(parts))


def cropped(
    mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """The smallest box (X, Y, Z) of a mask that holds all of its region, which is not empty; and the box's affine."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    start = np.eye(4)
    start[:3, 3] = [side.start for side in box]
    return mask[box], affine @ start


def _reached(
    shape: tuple[int, ...], to_target: npt.NDArray[np.float64], target_shape: Sequence[int]
) -> tuple[slice, slice, slice]:
    """The part of the other grid that a box of voxels may reach."""
    corners = np.array([*product(*((-0.5, size - 0.5) for size in shape))])
    ends = corners @ to_target[:3, :3].T + to_target[:3, 3]
    low, high = np.floor(ends.min(axis=0)), np.ceil(ends.max(axis=0)) + 1
    first, second, third = (
        slice(int(np.clip(a, 0, size)), int(np.clip(b, 0, size)))
        for a, b, size in zip(low, high, target_shape, strict=True)
    )
    return first, second, third


def _parts_at(padded: npt.NDArray[np.int32], at: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Number of the part at places (3, ...) in voxels, 0 for none; on a border, of either side.

    ``padded`` has a voxel of 0 around it, where all places beyond it end up.
    """
    last = np.array(padded.shape).reshape(3, *[1] * (at.ndim - 1)) - 1
    low, high = (np.clip(np.floor(at + 1.5 + shift), 0, last).astype(np.int32) for shift in (-_TOUCHES, _TOUCHES))
    found: npt.NDArray[np.int32] = padded[low[0], low[1], low[2]]
    on_border = (low != high).any(axis=0)
    if on_border.any():
        low, high, best = low[:, on_border], high[:, on_border], found[on_border]
        for choice in _CHOICES:
            best = np.maximum(best, padded[tuple(np.where(np.array(choice)[:, None], high, low))])
        found[on_border] = best
    return found


def _keep_the_rest(
    region: npt.NDArray[np.bool_],
    parts: npt.NDArray[np.int32],
    met: npt.NDArray[np.bool_],
    to_target: npt.NDArray[np.float64],
) -> int:
    """Add the parts that no centre has met to the region; gives how many voxels of all parts the grid covers."""
    size, covered = np.array(region.shape)[:, None], 0
    corners = to_target[:3, :3] @ np.array([*product(*((0, end - 1) for end in parts.shape))]).T + to_target[:3, 3:]
    if met[1:].all() and ((corners >= -0.5) & (corners <= size - 0.5)).all():
        return int(np.count_nonzero(parts))
    for k in range(parts.shape[2]):
        i, j = np.nonzero(parts[:, :, k])
        at = to_target[:3, :3] @ np.stack([i, j, np.full_like(i, k)]) + to_target[:3, 3:]
        inside = ((at >= -0.5 - _TOUCHES) & (at <= size - 0.5 + _TOUCHES)).all(axis=0)
        covered += int(np.count_nonzero(inside))
        lost = inside & ~met[parts[i, j, k]]
        region[tuple(np.clip(np.floor(at[:, lost] + 0.5).astype(np.int64), 0, size - 1))] = True
    return covered
