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
    for _, box, volume, inside in islands(labels, voxel_ml=voxel_ml):
        if volume < min_ml:
            labels[box][inside] = 0
    return labels


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
    labelled = labels > 0
    if not labelled.any():
        return []
    # Only the box around all of them is searched: it is small where little is suspicious.
    axes = range(labels.ndim)
    along = [np.flatnonzero(labelled.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    whole = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in along)
    parts, _ = ndimage.label(labelled[whole], ndimage.generate_binary_structure(labels.ndim, labels.ndim))
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[box] == number
        placed = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(whole, box, strict=True))
        found.append((int(inside.sum()), placed, float(inside.sum() * voxel_ml), inside))
    return sorted(found, key=lambda part: -part[0])
