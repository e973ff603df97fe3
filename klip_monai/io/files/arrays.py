"""Read the arrays of NumPy, MATLAB and HDF5 files under one kind of name; nothing pickled is ever loaded."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klip_monai.errors import InputError
from klip_monai.io.claims import check_claim
from klip_monai.io.files.mat_tags import check_mat_tags

Arrays = dict[str, npt.NDArray[Any]]

_QUOTED = 200


def read_arrays(path: Path) -> Arrays:
    """Read all numeric arrays of a file, structs and groups flattened to names such as `CtData/parameters/angles`.

    Args:
        path: .npy (its array is called "sinogram"), .npz, .mat of any version, .h5 or .hdf5 file.

    Returns:
        Arrays by name, in the axis order of the program that wrote them (MATLAB's HDF5 files are turned back).

    Raises:
        InputError: a file that does not exist, is of another kind, or is damaged.
    """
    reader = reader_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy evaluates the header as Python, which warns of odd text
            return reader(path)
    except InputError:
        raise
    except Exception as error:  # damaged files make these libraries raise anything
        raise InputError(
            f"sinogram: got {path.name}, which cannot be read ({str(error)[:_QUOTED]}), expected a complete file of "
            "plain numbers; it may be damaged or pickled"
        ) from error


def reader_of(path: Path) -> Callable[[Path], Arrays]:
    """What reads a file.

    Raises:
        InputError: a file that does not exist, or is of another kind.
    """
    readers: dict[str, Callable[[Path], Arrays]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".mat": _read_mat,
        ".h5": _read_hdf5,
        ".hdf5": _read_hdf5,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"sinogram: got {path.name!r}, expected a file ending in {', '.join(readers)}")
    if not path.is_file():
        raise InputError(f"sinogram: got {str(path)!r}, which is no file; check the spelling")
    return reader


def _read_npy(path: Path) -> Arrays:
    with path.open("rb") as file:
        return {"sinogram": np.load(file, allow_pickle=False)}


def _read_npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        check_claim(claimed, path.stat().st_size, path.name, packed=True)
    # NumPy leaves a damaged file open if it is given a name.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        # Members that are no arrays come as bytes.
        return {name: value for name in arrays.files if isinstance(value := arrays[name], np.ndarray)}


def _read_mat(path: Path) -> Arrays:
    """MATLAB: up to version 7 through SciPy, 7.3 is HDF5 with the axes reversed."""
    import h5py
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        return {name: value.T for name, value in _read_hdf5(path).items()}
    check_mat_tags(path)
    content = loadmat(path, simplify_cells=True)
    return _flatten({name: value for name, value in content.items() if not name.startswith("__")})


def _read_hdf5(path: Path) -> Arrays:
    import h5py

    arrays: Arrays = {}
    size = path.stat().st_size

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" and not name.startswith("#refs#"):
            # A dataset that was never written takes no bytes on disk, and all of them in memory.
            check_claim(item.size * item.dtype.itemsize, size, path.name, packed=True)
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(keep)
    return arrays


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Arrays:
    arrays: Arrays = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            arrays |= _flatten(value, f"{prefix}{name}/")
        elif np.asarray(value).dtype.kind in "fiu":
            arrays[prefix + name] = np.asarray(value)
    return arrays
