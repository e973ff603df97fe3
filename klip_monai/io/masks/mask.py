"""Read the mask of a region: which voxels of a file belong to it, and where they lie."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel.orientations as nio
import numpy as np
import numpy.typing as npt

from klip_monai.errors import InputError
from klip_monai.io.claims import MASK_RATIO
from klip_monai.io.masks.mask_grid import cropped
from klip_monai.io.masks.roi import Roi, mask_format

_LISTED = 40  # labels of a message
_QUOTED = 200  # letters
_HEADER_BYTES = 2**20
_FLAT = 1e-3  # of the volume of a voxel with these sides at right angles
_SLICER_SEGMENT = re.compile(rb"^Segment\d+_\w+:=", re.MULTILINE)
_PLACE = ("space", "space directions", "space origin")


@dataclass(frozen=True)
class Segment:
    """A named part of a mask.

    Attributes:
        name: as a viewer shows it.
        value: its number in the file.
        layer: which of the volumes of the file holds it; segments of different layers may overlap.
    """

    name: str
    value: int
    layer: int = 0

    def __str__(self) -> str:
        return f"{self.name!r} ({self.value})"


@dataclass(frozen=True)
class Mask:
    """A region on the grid that it was drawn on, which need not be that of a scan.

    Attributes:
        values: bool (X, Y, Z).
        affine: (4, 4) voxel index to RAS mm.
        labels: numbers of the labels that count; empty if all do.
        names: of these labels, where the format has names.
        absent: how many of them have no voxel.
        frame_of_reference: FrameOfReferenceUID of the patient's coordinates; empty where the format has none.
    """

    values: npt.NDArray[np.bool_]
    affine: npt.NDArray[np.float64]
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    absent: int = 0
    frame_of_reference: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the region's voxels and their places, rounded to 0.001 mm, 64 hexadecimal digits.

        Empty voxels around them do not count, nor does the order of axes and voxels, so that the formats, which have
        their own, agree.
        """
        values, affine = cropped(self.values, self.affine)
        turned = nio.io_orientation(affine)
        affine = affine @ nio.inv_ornt_aff(turned, values.shape)
        values = np.asarray(nio.apply_orientation(values, turned))
        digest = hashlib.sha256(f"{values.shape}".encode())
        digest.update((np.round(affine, 3) + 0.0).astype("<f8").tobytes())  # + 0.0 makes -0.0 a 0.0
        digest.update(np.packbits(values).tobytes())
        return digest.hexdigest()


def read_mask(roi: Roi) -> Mask:
    """Read the voxels of a region.

    Args:
        roi: the file and its labels. NIfTI, NRRD and MetaImage hold whole numbers, of which 0 is background; what
            3D Slicer saved as .seg.nrrd (segments that overlap, too) and a DICOM Segmentation hold named segments,
            which go by name, in any case, or by number. A fractional segment counts where it is at least half.

    Returns:
        The mask, with at least one voxel.

    Raises:
        InputError: a damaged file, a place in space that is not beyond doubt (by the rules of
            :func:`klip_monai.io.read.read_volume`), values that are no labels, unknown labels, or none with a voxel.
    """
    try:
        mask = _READERS[mask_format(roi.path)](roi)
    except InputError as error:
        message = str(error)
        prefix = "" if message.startswith("--roi") else f"--roi: got a mask that cannot be used: {roi.path.name!r}: "
        raise InputError(prefix + message.removeprefix(f"{roi.path}: ")) from error
    spacing = np.linalg.norm(mask.affine[:3, :3], axis=0)
    is_finite = bool(np.isfinite(mask.affine).all())
    if not is_finite or not abs(np.linalg.det(mask.affine)) > _FLAT * spacing.prod() > 0:
        raise InputError(
            f"--roi: got a mask with the affine {np.round(mask.affine[:3], 3).tolist()}, expected three axes of finite "
            "length that span space; save it again"
        )
    return mask


def _read_nifti(roi: Roi) -> Mask:
    from klip_monai.io.files.nifti import read_nifti

    return _labelled(*read_nifti(roi.path, max_ratio=MASK_RATIO, exact=True), roi)


def _read_nrrd(roi: Roi) -> Mask:
    from klip_monai.io.files.nrrd import read_nrrd

    if roi.path.suffix.lower() in (".nrrd", ".nhdr") and _is_segmentation(roi.path):
        return _read_segments(roi)
    return _labelled(*read_nrrd(roi.path, max_ratio=MASK_RATIO, exact=True), roi)


def _read_dicom(roi: Roi) -> Mask:
    from klip_monai.io.masks.dicom_seg import read_dicom_seg

    return read_dicom_seg(roi)


_READERS = {"nifti": _read_nifti, "nrrd": _read_nrrd, "dicom": _read_dicom}


def _labelled(values: npt.NDArray[Any], affine: npt.NDArray[np.float64], roi: Roi) -> Mask:
    """Pick the labels of a volume of whole numbers, compared in their own type: float32 takes 2^24 + 1 for 2^24."""
    if values.dtype.kind not in "iuf":
        raise InputError(
            f"--roi: got {roi.path.name!r} of {values.dtype}, expected labels: whole numbers from 0 on; save it again"
        )
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise InputError(
            f"--roi: got {roi.path.name!r} with {count} voxels of NaN or infinity, expected labels: whole numbers from "
            "0 on, where 0 is background; set these voxels to 0"
        )
    low, high = values.min().item(), values.max().item()
    if low < 0 or (is_float and not np.array_equal(values, np.rint(values))):
        raise InputError(
            f"--roi: got {roi.path.name!r} with values from {low:g} to {high:g}"
            f"{'' if low < 0 else ' that are not whole'}, expected labels: whole numbers from 0 on, where 0 is "
            "background; give a mask, not an image, and cut probabilities at a threshold first"
        )
    if is_float and high > (largest := 2 ** (np.finfo(values.dtype).nmant + 1)):
        raise InputError(
            f"--roi: got {roi.path.name!r} with labels up to {high:.0f}, expected at most {largest}, as {values.dtype} "
            "does not hold each larger whole number; save the labels as whole numbers"
        )
    asked = labels_of(roi.labels)
    if not asked:
        return whole(values != 0, affine, roi)
    there = [int(label) for label in np.unique(values[values != 0])]
    if not all(label.isdecimal() for label in asked):
        raise InputError(
            f"--roi: got the labels {roi.labels!r} for {roi.path.name!r}, expected numbers with commas, as the file "
            f"has no names; choose from {_listed(map(str, there))}"
        )
    numbers = tuple(dict.fromkeys(map(int, asked)))
    found = set(numbers).intersection(there)
    absent = len(numbers) - len(found)
    if absent == len(numbers):
        raise InputError(
            f"--roi: got no voxel of the labels {roi.labels!r} in {roi.path.name!r}, expected some of those that it "
            f"has: {_listed(map(str, there))}; choose from them"
        )
    return Mask(np.isin(values, np.array(sorted(found), dtype=values.dtype)), affine, numbers, absent=absent)


def _is_segmentation(path: Path) -> bool:
    """Whether the header of a NRRD file names segments, as 3D Slicer writes them."""
    return bool(_SLICER_SEGMENT.search(_header(path)))


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return re.split(rb"\r?\n\r?\n", file.read(_HEADER_BYTES), maxsplit=1)[0]


def _read_segments(roi: Roi) -> Mask:
    """Pick the segments of a .seg.nrrd file."""
    import slicerio

    from klip_monai.io.dicom.geometry import LPS_TO_RAS
    from klip_monai.io.files.image_header import check_nrrd

    check_nrrd(roi.path, max_ratio=MASK_RATIO)
    header = _header(roi.path)
    missing = [field for field in _PLACE if not re.search(rb"^%s:" % field.encode(), header, re.MULTILINE)]
    if missing:  # slicerio would take the voxel grid for the patient's space
        raise InputError(
            f"--roi: got {roi.path.name!r} without {', '.join(missing)}, expected the full place in space; save it "
            "again from 3D Slicer"
        )
    try:
        content = slicerio.read_segmentation(str(roi.path))
    except Exception as error:  # slicerio and pynrrd pass on zlib, value and index errors
        raise InputError(
            f"--roi: got {roi.path.name!r}, which cannot be read ({str(error)[:_QUOTED]}), expected a complete "
            ".seg.nrrd; save it again from 3D Slicer"
        ) from error
    voxels = content["voxels"] if content["voxels"].ndim > 3 else content["voxels"][None]  # (layers, X, Y, Z)
    # Files from before segments shared layers have neither number nor layer: each segment is a volume of ones.
    segments = [
        Segment(part.get("name", part["id"]), part.get("labelValue", 1), part.get("layer", min(n, len(voxels) - 1)))
        for n, part in enumerate(content["segments"])
    ]
    affine = np.asarray(LPS_TO_RAS @ content["ijkToLPS"], dtype=np.float64)
    if not roi.labels:
        return whole((voxels != 0).any(axis=0), affine, roi)
    chosen = choose(segments, roi)
    parts = [voxels[part.layer] == part.value for part in chosen]
    return of_segments(np.logical_or.reduce(parts), affine, chosen, [bool(part.any()) for part in parts])


def labels_of(text: str) -> list[str]:
    """Labels with commas between them."""
    return [label for part in text.split(",") if (label := part.strip())]


def choose(segments: Sequence[Segment], roi: Roi) -> list[Segment]:
    """The segments that a region asks for, by name or by number; all of a name count.

    Raises:
        InputError: a label that none has, or a number that several layers have.
    """
    whole_name = roi.labels.casefold() in [part.name.casefold() for part in segments]  # one that holds a comma
    chosen: list[Segment] = []
    for label in [roi.labels] if whole_name else labels_of(roi.labels):
        found = [part for part in segments if part.name == label]
        found = found or [part for part in segments if part.name.casefold() == label.casefold()]
        found = found or [part for part in segments if str(part.value) == label]
        by_number = bool(found) and found[0].name.casefold() != label.casefold()
        if not found or (by_number and len(found) > 1):
            raise InputError(
                f"--roi: got the label {label!r} for {roi.path.name!r}, which {len(found) or 'none'} of its segments "
                f"have, expected one of {_listed(map(str, segments))}; choose from them by name"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def whole(values: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64], roi: Roi, frame: str = "") -> Mask:
    """A mask of all labels.

    Raises:
        InputError: it has no voxel.
    """
    if not values.any():
        raise InputError(
            f"--roi: got {roi.path.name!r} without a voxel above 0, expected a region; draw it, or leave --roi out"
        )
    return Mask(values, affine, frame_of_reference=frame)


def of_segments(
    values: npt.NDArray[np.bool_],
    affine: npt.NDArray[np.float64],
    chosen: Sequence[Segment],
    filled: Sequence[bool],
    frame: str = "",
) -> Mask:
    """A mask of some segments; ``filled`` tells which have a voxel.

    Raises:
        InputError: none has.
    """
    if not any(filled):
        raise InputError(
            f"--roi: got no voxel of {_listed(map(str, chosen))}, expected a region; draw it, or choose other segments"
        )
    labels, names = tuple(part.value for part in chosen), tuple(part.name for part in chosen)
    return Mask(values, affine, labels, names, filled.count(False), frame)


def _listed(names: Iterable[str]) -> str:
    """Names of a message, the first of many."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more or "none"
