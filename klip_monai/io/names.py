"""Names of cases that tell nothing about the patient, and are the same wherever a scan is scored."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from monai.data import MetaTensor

_DIGITS = 8


def pseudonym(series: str, *, digits: int = _DIGITS) -> str:
    """Name of a DICOM series: `ct-` and the first hexadecimal digits of the SHA-256 of its UID.

    Args:
        series: SeriesInstanceUID; with `#1`, `#2`, ... behind it for one volume of a series that holds several, which
            becomes `.1`, `.2`, ...
        digits: how many; eight tell some thousand series apart.
    """
    uid, _, number = series.partition("#")
    return f"ct-{hashlib.sha256(uid.encode()).hexdigest()[:digits]}" + (f".{number}" if number else "")


def fingerprint(values: npt.NDArray[np.floating], affine: npt.NDArray[np.floating]) -> str:
    """Name of a volume without a UID: `ct-` and eight digits of the SHA-256 of its voxels and their places.

    Values are rounded to whole HU and the affine to 0.001 mm, so that a scan has one name as NIfTI, NRRD and MetaImage.

    Args:
        values: (X, Y, Z) HU.
        affine: (4, 4) voxel-to-RAS matrix in mm.
    """
    digest = hashlib.sha256(f"{values.shape}".encode())
    digest.update((np.round(affine, 3) + 0.0).astype("<f8").tobytes())  # + 0.0 makes -0.0 a 0.0
    for k in range(values.shape[2]):  # slice by slice, as a copy of the whole volume may not fit
        digest.update(np.round(values[:, :, k]).astype("<i4").tobytes())
    return f"ct-{digest.hexdigest()[:_DIGITS]}"


def sinogram_name(line_integrals: npt.NDArray[np.float32]) -> str:
    """Name of a raw sinogram: `ct-` and eight digits of the SHA-256 of its line integrals, (views, detectors)."""
    digest = hashlib.sha256(f"{line_integrals.shape}".encode())
    digest.update(np.ascontiguousarray(line_integrals, dtype="<f4").tobytes())
    return f"ct-{digest.hexdigest()[:_DIGITS]}"


def case_name(volume: MetaTensor) -> str:
    """Pseudonym of a scan from :func:`klip_monai.io.read.read_volume`: of its series UID, else its fingerprint."""
    series = volume.meta["series_uid"]
    return pseudonym(series) if series else fingerprint(volume[0].numpy(), np.asarray(volume.affine))
