"""Readers of DICOM series, ours and the usual ones, with one face: folder in, volumes in RAS mm out."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from klip_monai.io import index_series, read_volume

Volume = tuple[NDArray[Any], NDArray[np.float64]]
"""Values (X, Y, Z) and the (4, 4) affine to RAS mm."""
Reader = Callable[[Path], Sequence[Volume]]


def installed_readers() -> dict[str, Reader]:
    """Readers by name, but for those that are not installed."""
    return {name: read for name, read in READERS.items() if find_spec(_MODULES.get(name, "monai"))}


def _ours(folder: Path) -> list[Volume]:
    """All usable series of a folder; gaps are repaired as a user would ask for."""
    names = [info.name for info in index_series(folder, fill_gaps=True).series if info.verdict != "refused"]
    read = [read_volume(folder, series_uid=name, repair=("gaps",)) for name in names]
    return [(volume[0].numpy(), volume.affine.numpy()) for volume in read]


def _monai(reader: str) -> Reader:
    def read(folder: Path) -> list[Volume]:
        from monai.transforms import LoadImage

        volume = LoadImage(reader=reader, image_only=True)(folder)
        return [(volume.numpy(), volume.affine.numpy())]

    return read


def _dcm2niix(folder: Path) -> list[Volume]:
    """What it converts; an exit code other than 0 counts as a refusal, though it may leave files behind."""
    import dcm2niix

    with tempfile.TemporaryDirectory() as out:
        command = [dcm2niix.bin, "-z", "n", "-b", "n", "-o", out, str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return _niftis(Path(out))


def _dicom2nifti(folder: Path) -> list[Volume]:
    import dicom2nifti

    with tempfile.TemporaryDirectory() as out:
        dicom2nifti.convert_directory(str(folder), out, compression=False, reorient=False)
        return _niftis(Path(out))


def _niftis(folder: Path) -> list[Volume]:
    """All volumes of a folder; a fourth axis counts as volumes of their own."""
    volumes: list[Volume] = []
    for path in sorted(folder.glob("*.nii")):
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
        parts = np.moveaxis(values, 3, 0) if values.ndim == 4 else [values]
        volumes += [(part, np.asarray(image.affine)) for part in parts]
    return volumes


READERS: dict[str, Reader] = {
    "ours": _ours,
    "MONAI PydicomReader": _monai("PydicomReader"),
    "MONAI ITKReader": _monai("ITKReader"),
    "dcm2niix": _dcm2niix,
    "dicom2nifti": _dicom2nifti,
}
_MODULES = {"MONAI ITKReader": "itk", "dcm2niix": "dcm2niix", "dicom2nifti": "dicom2nifti"}
