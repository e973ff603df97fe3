"""Checks that an array to be written lies on a voxel grid that every viewer can show."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from klip_monai.errors import InputError
from klip_monai.io.checks import MAX_AXIS_COSINE, axis_cosines


def as_volume(name: str, array: npt.ArrayLike | torch.Tensor) -> npt.NDArray[Any]:
    """Give a (X, Y, Z) NumPy view of an array or tensor.

    Args:
        name: argument name for the error message.
        array: array or tensor of shape (X, Y, Z).

    Returns:
        The same values as a NumPy array of shape (X, Y, Z); no copy where none is needed.

    Raises:
        InputError: the array is not three-dimensional or has no voxel.
    """
    values = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if values.ndim != 3 or values.size == 0:
        raise InputError(
            f"{name}: got shape {values.shape}, expected a non-empty (X, Y, Z); drop batch and channel axes"
        )
    return values


def as_finite_volume(name: str, array: npt.ArrayLike | torch.Tensor) -> npt.NDArray[np.float32]:
    """Give a (X, Y, Z) float32 view of an array or tensor without NaN or infinity.

    Raises:
        InputError: wrong shape, or a voxel that is not finite.
    """
    values = as_volume(name, array).astype(np.float32, copy=False)
    invalid = values.size - int(np.count_nonzero(np.isfinite(values)))
    if invalid:
        raise InputError(
            f"{name}: got {invalid} NaN or infinite voxels, expected none; set voxels outside the body to 0"
        )
    return values


def as_labels(labels: npt.ArrayLike | torch.Tensor) -> npt.NDArray[np.uint8]:
    """Give a (X, Y, Z) uint8 label map: 0 background, 1 suspicious, 2 strongly suspicious.

    Raises:
        InputError: wrong shape, or a value other than 0, 1 and 2.
    """
    values = as_volume("labels", labels)
    # Those of a scan have the type already, and may be many.
    known = values.max() <= 2 if values.dtype == np.uint8 else ((values == 0) | (values == 1) | (values == 2)).all()
    if not known:
        raise InputError(
            f"labels: got values in {values.min()}..{values.max()}, expected only 0 (background), 1 (suspicious) "
            "and 2 (strongly suspicious)"
        )
    return values.astype(np.uint8, copy=False)


def as_affine(affine: npt.ArrayLike | torch.Tensor, *, may_lean: bool = False) -> npt.NDArray[np.float64]:
    """Give a checked voxel-to-RAS matrix in mm.

    Args:
        affine: (4, 4) matrix.
        may_lean: allow a slice axis that leans, as it does where the gantry was tilted: DICOM can hold it, NIfTI's
            qform and Slicer cannot (see :func:`klip_monai.io.straighten.straighten`).

    Returns:
        The matrix as float64.

    Raises:
        InputError: not (4, 4), not finite, singular, or with axes that are not perpendicular.
    """
    values = affine.detach().cpu().numpy() if isinstance(affine, torch.Tensor) else affine
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise InputError(
            f"affine: got shape {matrix.shape}, expected a finite (4, 4) voxel-to-RAS matrix ending in 0 0 0 1"
        )
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise InputError(f"affine: got voxel spacing {spacing.tolist()} mm, expected three positive lengths")
    in_plane, leaning = axis_cosines(matrix)
    cosine = in_plane if may_lean else max(in_plane, leaning)
    if cosine > MAX_AXIS_COSINE:
        raise InputError(
            f"affine: got axes that are not perpendicular: cosine {cosine:.2g}, expected at most {MAX_AXIS_COSINE:g}; "
            "resample the series to an orthogonal grid first"
        )
    return matrix
