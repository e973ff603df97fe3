"""From heat map to labels: 0 background, 1 suspicious, 2 strongly suspicious."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIN_ML = 0.1
"""Islands of less volume, in ml, are no candidates."""

LABEL_NAMES = {0: "Background", 1: "Suspicious", 2: "Strongly suspicious"}


def threshold_heatmap(
    heatmap: NDArray[np.floating],
    *,
    suspicious: float,
    strong: float,
    voxel_ml: float,
    min_ml: float = 0.0,
) -> NDArray[np.uint8]:
    """Label voxels by two thresholds and drop small islands.

    Args:
        heatmap: float (X, Y, Z), nats per pixel.
        suspicious: label 1 at or above it.
        strong: label 2 at or above it.
        voxel_ml: volume of a voxel in ml.
        min_ml: islands (26-connected components of label 1 and 2 together) below this volume in ml become background.

    Returns:
        uint8 (X, Y, Z).

    Raises:
        ValueError: if ``strong`` lies below ``suspicious``.
    """
    if strong < suspicious:
        raise ValueError(f"strong: got {strong}, expected at least suspicious ({suspicious})")
    labels = (heatmap >= suspicious).view(np.uint8)
    labels += heatmap >= strong
    numbered, around = parts_of(labels)
    if around:
        inside, within = numbered > 0, labels[around]
        numbers, kept = numbered[inside], within[inside]
        kept[(np.bincount(numbers) * voxel_ml < min_ml)[numbers]] = 0
        within[inside] = kept
    return labels


def parts_of(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], tuple[slice, ...]]:
    """Number the 26-connected components of the non-zero labels.

    Args:
        labels: integer (X, Y, Z).

    Returns:
        Numbers from 1 on, 0 for none, in the box (slices) around all of them: it is small where little is suspicious.
        Both empty if there is no component.
    """
    labelled = labels > 0
    if not labelled.any():
        return np.zeros((0,) * labels.ndim, np.int32), ()
    axes = range(labels.ndim)
    along = [np.flatnonzero(labelled.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    around = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in along)
    numbered, _ = ndimage.label(labelled[around], ndimage.generate_binary_structure(labels.ndim, labels.ndim))
    return numbered, around


def moved(box: tuple[slice, ...], around: tuple[slice, ...]) -> tuple[slice, ...]:
    """A box within another one, in the indices of the whole."""
    return tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(around, box, strict=True))


def islands(
    labels: NDArray[np.integer], *, voxel_ml: float
) -> list[tuple[int, tuple[slice, ...], float, NDArray[np.bool_]]]:
    """26-connected components of the non-zero labels.

    Args:
        labels: integer (X, Y, Z).
        voxel_ml: volume of a voxel in ml.

    Returns:
        For each component, largest first: voxel count, bounding box (slices), volume in ml, mask within the box.
    """
    parts, whole = parts_of(labels)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts) if whole else (), start=1):
        inside = parts[box] == number
        found.append((int(inside.sum()), moved(box, whole), float(inside.sum() * voxel_ml), inside))
    return sorted(found, key=lambda part: -part[0])
