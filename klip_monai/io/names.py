"""Names of cases that tell nothing about the patient, and are the same wherever a scan is scored."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from monai.data import MetaTensor

DETACHED = (".nhdr", ".mhd")
"""Suffixes of headers whose voxels lie in another file."""

_DIGITS = 8
_SAMPLES, _SAMPLE_BYTES = 9, 2**15


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
    """Name of a volume in memory: `ct-` and eight digits of the SHA-256 of its voxels and their places.

    Values are rounded to whole HU and the affine to 0.001 mm.

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


class Readable(Protocol):
    """A file that is open for reading."""

    def seek(self, offset: int, /) -> object:
        """Go to a byte."""

    def read(self, size: int, /) -> bytes | None:
        """Read at most so many bytes."""


def file_key(stream: Readable, size: int, path: str | os.PathLike[str]) -> str:
    """What a NIfTI, NRRD or MetaImage file is known by, as series are by their UID: its size, and samples of its bytes.

    The samples are from end to end, as its borders may be nothing but air. An archive is looked through without
    decoding anything, so bytes count, not voxels.

    Args:
        stream: the file, open.
        size: bytes in it.
        path: where it lies; counts where the voxels are in another file.
    """
    digest = hashlib.sha256()
    place = os.path.abspath(path) if os.fspath(path).lower().endswith(DETACHED) else ""
    digest.update(os.fsencode(f"{size} {place}") + b"\0")
    for part in range(_SAMPLES):
        stream.seek(max(0, size - _SAMPLE_BYTES) * part // (_SAMPLES - 1))
        digest.update(stream.read(_SAMPLE_BYTES) or b"")
    return digest.hexdigest()


def file_name(path: Path) -> str:
    """Pseudonym of a NIfTI, NRRD or MetaImage file."""
    with path.open("rb") as stream:
        return pseudonym(file_key(stream, path.stat().st_size, path))


def case_name(volume: MetaTensor) -> str:
    """Pseudonym of a scan from :func:`klip_monai.io.read.read_volume`, the same in `inspect`, `score` and `screen`.

    Of its series UID; else of its file; of one that a host has in memory its fingerprint.
    """
    if series := volume.meta["series_uid"]:
        return pseudonym(series)
    if volume.meta["format"] in ("memory", "dicom"):
        return fingerprint(volume[0].numpy(), np.asarray(volume.affine))
    return file_name(Path(volume.meta["filename_or_obj"]))
