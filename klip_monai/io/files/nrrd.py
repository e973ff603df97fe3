"""Read NRRD and MetaImage files, the formats that 3D Slicer and ITK save volumes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)

from klip_monai.errors import InputError, no_access
from klip_monai.io.claims import MAX_RATIO
from klip_monai.io.dicom.geometry import LPS_TO_RAS
from klip_monai.io.files.image_header import check_meta_image, check_nrrd

_NRRD_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")


def read_nrrd(
    path: Path, *, max_ratio: int = MAX_RATIO, exact: bool = False
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Read a three-dimensional NRRD or MetaImage file with ITK.

    Args:
        path: `.nrrd`, `.nhdr`, `.mha` or `.mhd`.
        max_ratio: see :func:`klip_monai.io.claims.check_claim`.
        exact: keep the file's own type of numbers, for labels that float32 cannot tell apart.

    Returns:
        Values of shape (X, Y, Z), a view, float32 unless ``exact``; the (4, 4) affine to RAS mm.

    Raises:
        InputError: damaged file, other than three axes or one value a voxel, or a header without the place in space.
    """
    check = check_meta_image if path.suffix.lower() in (".mha", ".mhd") else check_nrrd
    try:
        check(path, max_ratio=max_ratio)
    except OSError as error:
        raise no_access(path, error) from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    warned = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
        _check_header(reader, path)
        if not exact:
            reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{path}: got a file that ITK cannot read, expected a complete NRRD or MetaImage (with its data file "
            "beside it if detached); save it again"
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warned)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def _check_header(reader: sitk.ImageFileReader, path: Path) -> None:
    """Refuse what is no grey volume, and headers that leave the place in space to a default."""
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: got shape {tuple(reader.GetSize())} with {reader.GetNumberOfComponents()} value(s) a voxel, "
            "expected one grey volume (X, Y, Z); extract one volume first"
        )
    if path.suffix.lower() in (".mha", ".mhd"):
        return
    # ITK hands "space" on by its long name and leaves the key out where the file has none.
    space = reader.GetMetaData("NRRD_space") if reader.HasMetaDataKey("NRRD_space") else ""
    if space.lower() not in _NRRD_SPACES:
        raise InputError(
            f"{path}: got a header without space (LPS or RAS), expected the full place in space: the side of the "
            "body would be a guess; save it again from 3D Slicer with the original series"
        )
