"""Read NIfTI files whose place in space is beyond doubt."""

from __future__ import annotations

import gzip
import math
from contextlib import ExitStack
from io import IOBase
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import unit_codes
from nibabel.nifti2 import Nifti2Header

from klip_monai.errors import InputError, no_access
from klip_monai.io.claims import MAX_RATIO, check_claim
from klip_monai.io.kinds import NOT_DICOM, START_BYTES, VOLUME, kind_of

_FORM_TOLERANCE_MM = 0.1
# A qform keeps three float32 numbers of a quaternion; near half a turn the fourth is known to some 3.5e-4 only, which
# turns the volume by twice as much.
_QUATERNION_TOLERANCE = 7e-4
_ZOOM_TOLERANCE = 0.02  # pixdim is rounded at times
_GZIP = b"\x1f\x8b"
_FLOAT32_EPS = float(np.finfo(np.float32).eps)


def read_nifti(
    path: Path, *, max_ratio: int = MAX_RATIO, exact: bool = False
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Read a three-dimensional NIfTI file.

    Args:
        path: `.nii` or `.nii.gz`, packed or not whatever its name says; further axes of length 1 are dropped.
        max_ratio: see :func:`klip_monai.io.claims.check_claim`.
        exact: keep the file's own type of numbers (float64 where the header scales them), for labels that float32
            cannot tell apart.

    Returns:
        Values of shape (X, Y, Z), float32 unless ``exact``, scaled as the header says; the (4, 4) affine to RAS mm.

    Raises:
        InputError: damaged file, more than three axes, colour values, a unit other than mm, no qform or sform, a qform
            and a sform that disagree by more than 0.1 mm within the volume, or a pixdim and a sform by 2 %.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    is_packed = start.startswith(_GZIP)
    if not is_packed and (what := kind_of(start, "")) not in (VOLUME, NOT_DICOM):
        raise InputError(f"{path}: got {what}, expected a NIfTI file; give another one, or copy this one again")
    with ExitStack() as stack:
        try:
            is_named_well = is_packed == (path.suffix.lower() == ".gz")
            image = nib.load(path) if is_named_well else _load(stack.enter_context(_unpacked(path, is_packed)))
        except Exception as error:  # nibabel passes on zlib, struct and header errors
            raise _damaged(path, error) from error
        if not isinstance(image, nib.Nifti1Image):
            raise InputError(f"{path}: got {type(image).__name__}, expected NIfTI-1 or NIfTI-2; convert it to .nii.gz")
        shape = image.shape
        if len(shape) < 3 or set(shape[3:]) - {1} or image.get_data_dtype().names:
            raise InputError(
                f"{path}: got shape {shape} of {image.get_data_dtype()}, expected one grey volume (X, Y, Z); "
                "extract one volume first"
            )
        code = int(image.header["xyzt_units"]) % 8
        unit = unit_codes.label[code] if code in unit_codes else f"unit {code}"
        if unit not in ("mm", "unknown"):
            raise InputError(f"{path}: got lengths in {unit!r}, expected mm; rewrite the header in mm")
        claimed = math.prod(map(int, shape)) * image.get_data_dtype().itemsize
        check_claim(claimed, path.stat().st_size, str(path), packed=is_packed, max_ratio=max_ratio)
        with np.errstate(all="ignore"):  # what is not finite is refused later, with its own reason
            affine = _affine(image, path)
            _check_zooms(image, affine, path)
        try:
            with np.errstate(all="ignore"):
                whole = image.get_fdata(dtype=np.float32, caching="unchanged") if not exact else image.dataobj
                values = np.asanyarray(whole)
        except Exception as error:
            raise _damaged(path, error) from error
        return values.reshape(shape[:3]), affine


def _affine(image: nib.Nifti1Image, path: Path) -> npt.NDArray[np.float64]:
    """Give the affine of the sform, or of the qform, if nothing contradicts it."""
    sform, sform_code = image.get_sform(coded=True)
    try:
        qform, qform_code = _qform(image.header)
    except ValueError as error:
        raise InputError(
            f"{path}: got an invalid qform quaternion, expected unit length; rewrite the header"
        ) from error
    if not sform_code and not qform_code:
        raise InputError(
            f"{path}: got qform code 0 and sform code 0, expected one above 0: without them the place and the side "
            "of the body are a guess; convert again from the original series"
        )
    if sform_code and qform_code:
        ends = np.array(np.meshgrid(*[(0, size - 1) for size in image.shape[:3]], indexing="ij")).reshape(3, -1)
        corners = np.vstack([ends, np.ones(ends.shape[1])])
        apart = float(np.linalg.norm(((qform - sform) @ corners)[:3], axis=0).max())
        across = float(np.linalg.norm((sform @ (corners[:, -1] - corners[:, 0]))[:3]))
        if not apart <= _FORM_TOLERANCE_MM + _QUATERNION_TOLERANCE * across:
            raise InputError(
                f"{path}: got a qform and a sform that disagree by up to {apart:.2f} mm (qform {_rows(qform)}, sform "
                f"{_rows(sform)}), expected the same; keep the right one and set the code of the other to 0"
            )
    return np.asarray(sform if sform_code else qform, dtype=np.float64)


def _check_zooms(image: nib.Nifti1Image, affine: npt.NDArray[np.float64], path: Path) -> None:
    """Refuse voxels whose size is another one by pixdim: one of the two was left behind, or is in another unit."""
    zooms, sides = np.abs(image.header["pixdim"][1:4].astype(np.float64)), np.linalg.norm(affine[:3, :3], axis=0)
    # Of slices that lean pixdim may say how far apart they are, or how far it is along the slant.
    if not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        return  # refused with its own reason
    if (zooms == 1).all():
        return  # nobody set them: the sform alone counts
    apart = 1 / np.linalg.norm(np.linalg.inv(affine[:3, :3]), axis=1)
    off = np.minimum(np.abs(zooms / sides - 1), np.abs(zooms / apart - 1))
    if (off[zooms > 0] > _ZOOM_TOLERANCE).any():
        raise InputError(
            f"{path}: got voxels of {_sizes(zooms)} mm by pixdim and of {_sizes(sides)} mm by the sform, expected one "
            "size; correct the wrong one"
        )


def _qform(header: nib.Nifti1Header) -> tuple[npt.NDArray[np.float64], int]:
    """Affine and code of the qform; no affine for code 0.

    nibabel takes the square of the fourth number for 0 up to three times the precision of the three, and so turns a
    volume that is up to 0.07 degrees away from half a turn: 0.6 mm across a body. NIfTI-1 does so up to about once the
    precision. Quaternions longer than 1 by more, which some programs write, still pass as they do in nibabel.
    """
    exact = header.copy()
    exact.quaternion_threshold = _FLOAT32_EPS
    try:
        return exact.get_qform(coded=True)
    except ValueError:
        return header.get_qform(coded=True)


def _damaged(path: Path, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.errno:  # of the disk or the network, not of the file
        return no_access(path, error)
    return InputError(
        f"{path}: got a file that is cut off, damaged or no NIfTI, expected a complete .nii or .nii.gz; copy it again, "
        "or convert the original series again"
    )


def _unpacked(path: Path, is_packed: bool) -> IOBase:
    return gzip.open(path) if is_packed else path.open("rb")


def _load(file: Any) -> nib.Nifti1Image:
    """A file whose name does not tell whether it is packed; it has to stay open."""
    size = file.read(4)
    file.seek(0)
    is_second = Nifti2Header.sizeof_hdr.to_bytes(4, "little") in (size, size[::-1])
    return (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(file)


def _sizes(values: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _rows(affine: npt.NDArray[np.float64]) -> str:
    """The affine's first three rows on one line."""
    return str(np.round(affine[:3], 3).tolist())
