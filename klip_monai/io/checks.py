"""What every scan has to stand, whatever it was read from and whoever asks: a plausible grid and Hounsfield units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from nibabel.orientations import io_orientation

from klip_monai.errors import InputError

AIR_HU = -200.0
"""A CT scan of a body has voxels on both sides of this value: air or lung below, tissue above."""

_MIN_SIZE = 3
_MAX_TILT_COSINE = 0.574  # 35 degrees
_LARGEST_MM = 3000.0  # no body is longer
_COARSEST_MM = 50.0  # no scanner's voxel is larger

# DICOM and NIfTI round direction cosines to about 1e-6; 1e-4 is 0.05 mm at the end of a 500 mm axis.
MAX_AXIS_COSINE = 1e-4
"""Largest cosine between voxel axes that count as perpendicular."""


def axis_cosines(affine: npt.NDArray[np.float64]) -> tuple[float, float]:
    """How far the voxel axes of an affine are from perpendicular.

    Args:
        affine: (4, 4) voxel-to-RAS matrix with positive spacing.

    Returns:
        Absolute cosine between the two axes that run closest to left-right and front-back (the slice plane that is
        scored), and the largest one of the slice axis with either: not 0 where the gantry was tilted.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(directions.T @ directions)
    across = slice_axis(affine)
    first, second = (axis for axis in range(3) if axis != across)
    return float(cosines[first, second]), float(max(cosines[first, across], cosines[second, across]))


def slice_axis(affine: npt.NDArray[np.float64]) -> int:
    """Voxel axis that runs closest to feet-head: across the slices that are scored."""
    return int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])


def check_volume(values: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], label: str) -> None:
    """Refuse what cannot be a CT scan of a body.

    Args:
        values: HU (X, Y, Z).
        affine: (4, 4) to RAS mm.
        label: what the error messages call the scan.

    Raises:
        InputError: slivers, grids that neither DICOM nor 3D Slicer could show, a size that no body has, or values that
            are not HU.
    """
    _check_grid(values.shape, affine, label)
    _check_hu(values, label)


def read_volume_file(path: Path, file_format: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Read one volume file; the libraries are imported only for the format that needs them.

    Args:
        path: the file.
        file_format: "nifti" or "nrrd", see :func:`klip_monai.io.formats.format_of`.

    Returns:
        Values (X, Y, Z), not checked, and the (4, 4) affine to RAS mm.

    Raises:
        InputError: what the readers of the formats refuse.
    """
    if file_format == "nifti":
        from klip_monai.io.files.nifti import read_nifti

        return read_nifti(path)
    from klip_monai.io.files.nrrd import read_nrrd

    return read_nrrd(path)


def _check_grid(shape: tuple[int, ...], affine: npt.NDArray[np.float64], label: str) -> None:
    """Refuse slivers and grids that neither DICOM nor 3D Slicer could show."""
    if min(shape) < _MIN_SIZE:
        raise InputError(
            f"{label}: got shape {shape}, expected at least {_MIN_SIZE} voxels along X, Y and Z; give the whole scan"
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        raise InputError(
            f"{label}: got a voxel grid with spacing {spacing.tolist()} mm, expected finite sizes above 0; "
            "fix the header"
        )
    extent = spacing * shape
    if extent.max() > _LARGEST_MM or spacing.max() > _COARSEST_MM:
        raise InputError(
            f"{label}: got a scan of {_by(extent / 10)} cm with voxels of {_by(spacing)} mm, expected at most "
            f"{_LARGEST_MM / 10:.0f} cm and {_COARSEST_MM:.0f} mm, as no body is larger; correct the unit of lengths "
            "or the spacing in its header"
        )
    in_plane, cosine = axis_cosines(affine)
    # A gantry tilts by up to 30 degrees, and leaves the slices themselves right-angled.
    if in_plane > MAX_AXIS_COSINE or cosine > _MAX_TILT_COSINE:
        raise InputError(
            f"{label}: got axes {90 - np.degrees(np.arcsin(min(max(in_plane, cosine), 1.0))):.2f} degrees apart "
            "(sheared), expected right angles in each slice, and a gantry tilt of at most 35 degrees; resample to a "
            "right-angled grid first"
        )


def _check_hu(values: npt.NDArray[np.float32], label: str) -> None:
    """Refuse values that cannot be Hounsfield units; minimum and maximum also carry NaN and infinity."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"{label}: got NaN or infinite voxels, expected finite HU; set voxels outside the scan to -1024"
        )
    if not low < AIR_HU < high:
        raise InputError(
            f"{label}: got values from {low:g} to {high:g}, which are not HU: expected air below and tissue above "
            f"{AIR_HU:g}; convert again from the original CT series without windowing or normalising, or say which HU "
            "an 8-bit picture shows with --hu-window"
        )


def _by(sizes: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
