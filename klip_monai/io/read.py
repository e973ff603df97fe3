"""Read a CT scan in any supported format into one kind of volume, or refuse it with a reason."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys, SpaceKeys

from klip_monai.errors import InputError
from klip_monai.io.checks import check_volume, read_volume_file
from klip_monai.io.dicom.pixels import PADDING_HU
from klip_monai.io.formats import format_of, suffix_of
from klip_monai.io.names import fingerprint

if TYPE_CHECKING:
    from klip_monai.io.dicom.files import ListedFiles

FILE_SEPARATOR = "\0"
"""No file name can hold it."""

_WHITE = 255.0
_WINDOW_LIMIT = 32768.0
_WITH_CHANNEL = 4  # axes
_SHOWN = 120  # letters of a UID in a message
_REPAIRS = ("gaps",)


def read_volume(
    path: str | os.PathLike[str] | ListedFiles,
    *,
    series_uid: str | None = None,
    repair: Collection[str] = (),
    hu_window: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MetaTensor:
    """Read a CT scan as Hounsfield units on its own voxel grid.

    Args:
        path: folder with DICOM files (searched with its subfolders), DICOMDIR, zip or tar archive of DICOM files (read
            without unpacking it), a multi-frame DICOM file, or a NIfTI, NRRD or MetaImage file; or DICOM files listed
            one by one (:class:`klip_monai.io.dicom.files.ListedFiles`).
        series_uid: SeriesInstanceUID, or name in `klip-monai inspect`, where there are several CT series.
        repair: what else to repair: "gaps" interpolates missing or unevenly spaced slices, over at most 10 mm, to a
            regular grid. Repeated slices and a tilted gantry need no asking, as nothing is resampled for them.
        hu_window: (low, high) HU of the window that a NIfTI, NRRD or MetaImage file of an 8-bit picture, 0 to 255, is
            known to show: maps it back. Black may be anything from low down and becomes air, -1024 HU.
        progress: called after each DICOM slice with (slices read, slices in total).

    Returns:
        float32 HU of shape (1, X, Y, Z) with the (4, 4) float64 affine to RAS mm. For DICOM X is the column, Y the
        row and Z the slice, ascending along row direction x column direction; the slice axis leans where the gantry
        was tilted. The memory may be strided; nothing is resampled, unless asked for.
        `meta` holds "filename_or_obj" (the path as given, or
        the name of the list), "format" ("dicom", "nifti" or "nrrd", the latter for
        MetaImage, too), "name" (folder name or file stem, of A-Z a-z 0-9 . _ - only), "series_uid" (None
        unless a DICOM file has one), "modality" ("CT" for DICOM, else None), "space" ("RAS"), "affine",
        "original_affine", "spatial_shape" (X, Y, Z), "original_channel_dim", "repairs" (what was not as it should
        be and what was done about it, "" for most scans), "frame_of_reference" (FrameOfReferenceUID; "" for other
        formats) and "files" (names below the path of the DICOM files that
        hold the volume, parted by :data:`FILE_SEPARATOR`: MONAI can batch a string; "" for other formats).

    Raises:
        InputError: nothing to read there, more than one candidate, an ambiguous or irregular geometry, damaged data,
            or values that are not Hounsfield units.
    """
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
    uid: str | None = None
    frame = ""
    repairs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    if unknown := set(repair) - set(_REPAIRS):
        raise InputError(
            f"repair: got {', '.join(sorted(unknown))}, expected {', '.join(_REPAIRS)}; check the spelling"
        )
    file_format = format_of(path, series_uid=series_uid) if isinstance(path, Path) else "dicom"
    if isinstance(path, Path) and file_format != "dicom":
        values, affine = read_volume_file(path, file_format)
    else:
        from klip_monai.io.dicom.series import read_ct_series

        series = read_ct_series(path, series_uid=series_uid, fill_gaps="gaps" in repair, progress=progress)
        values, affine, uid, repairs = series.values, series.affine, series.uid, series.repairs
        names, frame = series.files, series.frame_of_reference
    label = f"series {uid[:_SHOWN]}" if uid and isinstance(path, Path) else str(path)
    return _volume(
        values,
        affine,
        label,
        hu_window=hu_window,
        repairs=repairs,
        filename_or_obj=str(path),
        format=file_format,
        name=safe_name(path if isinstance(path, Path) else path.name),
        series_uid=uid or None,
        files=FILE_SEPARATOR.join(names),
        frame_of_reference=frame,
    )


def volume_in_memory(
    volume: torch.Tensor | npt.NDArray[Any], *, series_uid: str | None = None, hu_window: Sequence[float] | None = None
) -> MetaTensor:
    """Take a CT scan that a host program has read already, checked as one from a file.

    What the host did to the pixels cannot be checked: missing slices, mixed series and a scale that was left out are
    found only where this package reads the files itself.

    Args:
        volume: MetaTensor of HU, (1, X, Y, Z) or (X, Y, Z), of any number type, with its voxel-to-RAS affine in mm.
        series_uid: None, as there is nothing to choose from.
        hu_window: as for :func:`read_volume`.

    Returns:
        As :func:`read_volume`; "format" and "filename_or_obj" are "memory", "name" is the scan's fingerprint.

    Raises:
        InputError: no affine, or not to RAS, more than one channel, an impossible grid, or values that are not HU.
    """
    label = "volume in memory"
    if series_uid is not None:
        raise InputError(f"series_uid: got {series_uid!r} with a {label}, expected it with DICOM files; leave it out")
    affine = _affine_in_memory(volume, label)
    array = torch.as_tensor(volume).as_subclass(torch.Tensor).detach().cpu().numpy()
    if array.ndim == _WITH_CHANNEL and len(array) == 1:
        array = array[0]
    if array.ndim != _WITH_CHANNEL - 1:
        raise InputError(f"{label}: got shape {array.shape}, expected (X, Y, Z) or (1, X, Y, Z); give one volume of HU")
    values = array.astype(np.float32)
    taken = _volume(values, affine, label, hu_window=hu_window, filename_or_obj="memory", format="memory")
    taken.meta["name"] = fingerprint(taken[0].numpy(), affine)
    return taken


def safe_name(path: str | os.PathLike[str]) -> str:
    """Give a name for outputs from the path of an input.

    Args:
        path: folder or file; "." stands for the name of the working folder.

    Returns:
        Folder name or file name without its format suffix, of A-Z a-z 0-9 . _ - only, never empty.
    """
    path = Path(path)
    full = path.resolve() if path.name in ("", "..") else path
    stem = full.name if full.is_dir() else full.name[: len(full.name) - len(suffix_of(full))]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-") or "volume"


def _volume(
    values: npt.NDArray[np.float32],
    affine: npt.NDArray[np.float64],
    label: str,
    *,
    hu_window: Sequence[float] | None,
    repairs: tuple[str, ...] = (),
    series_uid: str | None = None,
    files: str = "",
    frame_of_reference: str = "",
    **meta: str,
) -> MetaTensor:
    """Check values (X, Y, Z) and their affine, and put them with what is known about them."""
    if hu_window is not None:
        values, repairs = _from_window(values, hu_window, meta["format"], label)
    check_volume(values, affine, label)
    known = meta | {
        "series_uid": series_uid,
        "modality": "CT" if meta["format"] == "dicom" else None,
        "repairs": "; ".join(repairs),
        "files": files,
        "frame_of_reference": frame_of_reference,
        MetaKeys.SPACE.value: SpaceKeys.RAS.value,
        MetaKeys.ORIGINAL_AFFINE.value: affine.copy(),
        MetaKeys.SPATIAL_SHAPE.value: np.array(values.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM.value: 0,
    }
    return MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine), meta=known)


def _affine_in_memory(volume: torch.Tensor | npt.NDArray[Any], label: str) -> npt.NDArray[np.float64]:
    """Affine of a MetaTensor; the identity that MONAI puts in for an unknown one is none."""
    way_out = "give a MetaTensor with the scan's affine, or the path of its files"
    if not isinstance(volume, MetaTensor):
        raise InputError(f"{label}: got {type(volume).__name__} without an affine, expected a MetaTensor; {way_out}")
    affine = np.asarray(volume.affine, dtype=np.float64)
    space = str(volume.meta.get(MetaKeys.SPACE) or SpaceKeys.RAS.value)
    if affine.shape != (4, 4) or space != SpaceKeys.RAS.value:
        raise InputError(
            f"{label}: got an affine of shape {affine.shape} to {space}, expected (4, 4) to RAS mm; {way_out}"
        )
    if (affine == np.eye(4)).all() and not np.array_equal(volume.meta.get(MetaKeys.ORIGINAL_AFFINE, ()), np.eye(4)):
        raise InputError(f"{label}: got no affine (MONAI's identity), expected voxel to RAS mm; {way_out}")
    return affine


def _from_window(
    values: npt.NDArray[np.float32], window: Sequence[float], file_format: str, label: str
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Map an 8-bit picture of a HU window back to HU, and say so."""
    if file_format == "dicom":
        raise InputError(
            f"hu_window: got {list(window)} for {label}, expected it with NIfTI, NRRD or MetaImage files only: DICOM "
            "says itself what its values stand for; leave it out"
        )
    if len(window) != 2 or not -_WINDOW_LIMIT <= window[0] < window[1] <= _WINDOW_LIMIT:
        raise InputError(f"hu_window: got {list(window)}, expected two HU, low < high, such as -160,240; correct them")
    low, high = map(float, window)
    darkest, brightest = float(values.min()), float(values.max())
    if not (darkest >= 0.0 and 1.0 < brightest <= _WHITE):
        raise InputError(
            f"hu_window: got {label} with values from {darkest:g} to {brightest:g}, expected an 8-bit picture, 0 to "
            f"{_WHITE:g}; leave it out if they are HU already"
        )
    hu = (low + values * ((high - low) / _WHITE)).astype(np.float32)
    hu[values == 0] = PADDING_HU
    return hu, (f"8-bit picture of {low:g} to {high:g} HU mapped back, its black taken for air",)
