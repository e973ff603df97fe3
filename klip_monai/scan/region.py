"""A region of a scan to look at: read from a mask, checked against the scan, and all that lies beside it left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from klip_monai.errors import InputError
from klip_monai.io.masks.mask import Mask, read_mask
from klip_monai.io.masks.mask_grid import on_grid
from klip_monai.io.masks.roi import Roi
from klip_monai.report.summary import LookedAt
from klip_monai.scoring import MIN_ML
from klip_monai.standard import Placement, StandardSlices, beneath_skin, slice_axis

WHOLE = 0.995
"""Shares from here on are not remarked upon: they are what the edges of two grids differ by."""

_BETWEEN = "\n"  # labels; MONAI can batch a string


def read_region(
    roi: Roi | str | Path, volume: MetaTensor, slices: StandardSlices, *, skin_px: float, keep_names: bool = False
) -> tuple[MetaTensor, torch.Tensor]:
    """Read the region to look at, and refuse one that is not the scan's before anything is scored.

    The region lands on the scan's grid, and from there on that of the standard slices, by
    :func:`klip_monai.io.masks.mask_grid.on_grid`: a voxel is in it if its centre is.

    Args:
        roi: `FILE` or `FILE:LABELS`, see :class:`klip_monai.io.masks.roi.Roi`.
        volume: the scan, (1, X, Y, Z).
        slices: its standard slices.
        skin_px: thickness of the rim that is not scored, see :class:`klip_monai.inferer.KLIPInferer`.
        keep_names: let the file's name and the names of its segments into the meta.

    Returns:
        The region on the scan's grid, bool (1, X, Y, Z), whose meta says what :class:`Region` reads; and on the
        standard slices, bool (Z, 1, H, W).

    Raises:
        InputError: if the mask cannot be read, belongs to another frame of reference, lies outside of the scan, or has
            nothing in it that is scored.
    """
    if not isinstance(roi, Roi | str | Path):
        raise InputError(f"roi: got {type(roi).__name__}, expected FILE or FILE:LABELS")
    roi = roi if isinstance(roi, Roi) else Roi.parse(str(roi))
    mask = read_mask(roi)
    _check_frame(mask, volume)
    region, inside = on_grid(
        mask.values, mask.affine, shape=volume.shape[1:], target=np.asarray(volume.affine, dtype=np.float64)
    )
    if not region.any():
        raise InputError(_outside(mask, volume))
    on_slices, reached = region_on_slices(region, volume.affine, slices.placement)
    scored = on_slices & beneath_skin(slices.body, skin_px=skin_px)
    if not scored.any():
        raise InputError(
            f"--roi: got a region of {_ml(region, volume.affine):.3g} ml, nothing of which lies beneath the "
            "skin and in the prior's field of view, expected one inside of the body; give the mask of this scan"
        )
    meta = {
        "sha256": mask.sha256,
        "labels": _BETWEEN.join(map(str, mask.labels)),
        "absent": mask.absent,
        "names": _BETWEEN.join([roi.path.name, *mask.names]) if keep_names else "",
        "share_inside": inside,
        "share_scored": reached * int(scored.sum()) / int(on_slices.sum()),
    }
    return MetaTensor(torch.from_numpy(region)[None], affine=volume.affine, meta=meta), on_slices


def region_on_slices(
    region: NDArray[np.bool_] | torch.Tensor, affine: NDArray[np.float64] | torch.Tensor, placement: Placement
) -> tuple[torch.Tensor, float]:
    """A region of a scan on its standard slices.

    Args:
        region: bool (X, Y, Z) on the scan's grid; not empty.
        affine: (4, 4) of the scan to RAS mm.
        placement: of the standard slices.

    Returns:
        Bool (Z, 1, H, W), and the share of the region that they cover.
    """
    along = slice_axis(placement.source_affine)
    shape = (*placement.grid.image_shape, placement.source_shape[along])
    of = np.asarray(affine, dtype=np.float64)
    slices, reached = on_grid(np.asarray(region, dtype=bool), of, shape=shape, target=placement.affine)
    return torch.from_numpy(np.ascontiguousarray(slices.transpose(2, 0, 1)))[:, None], reached


@dataclass(frozen=True)
class Region:
    """What a summary says of a region.

    Attributes:
        voxels: of the scan that belong to it.
        volume_ml: of these voxels.
        slices: of the slices that were scored, those that have one of them.
        sha256: hash of the mask that was read, see :attr:`klip_monai.io.masks.mask.Mask.sha256`.
        labels: numbers of the labels that count; empty if all do.
        absent: how many of them have no voxel.
        share_inside: share of the mask that the scan covers.
        share_scored: share of the region that is scored: beneath the skin and in the prior's field of view.
        names: of the mask's file and of its segments that count; empty unless they may be told.
    """

    voxels: int
    volume_ml: float
    slices: int
    sha256: str
    labels: tuple[int, ...]
    absent: int
    share_inside: float
    share_scored: float
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, region: MetaTensor) -> Region:
        """Read what :func:`read_region` put into the meta of a region, MetaTensor bool (1, X, Y, Z)."""
        meta, values = region.meta, region[0].cpu().numpy().astype(bool)
        along = slice_axis(np.asarray(region.affine, dtype=np.float64))
        across = tuple(axis for axis in range(3) if axis != along)
        return cls(
            voxels=int(np.count_nonzero(values)),
            volume_ml=_ml(values, region.affine),
            slices=int(np.count_nonzero(values.any(axis=across))),
            sha256=str(meta["sha256"]),
            labels=tuple(map(int, _parts(meta["labels"]))),
            absent=int(meta["absent"]),
            share_inside=float(meta["share_inside"]),
            share_scored=float(meta["share_scored"]),
            names=tuple(_parts(meta["names"])),
        )

    def told(self) -> LookedAt:
        """What a summary tells of it."""
        return LookedAt(
            mask_sha256=self.sha256,
            labels=self.labels,
            voxels=self.voxels,
            volume_ml=self.volume_ml,
            slices=self.slices,
            share_inside=self.share_inside,
            share_scored=self.share_scored,
            names=self.names,
        )

    def remarks(self, *, is_long: bool = False) -> list[str]:
        """What a reader has to know of a score of the region, in sentences; ``is_long`` if it has many slices."""
        against = ", as far as the number of slices does not make up for it" if is_long else ""
        found = [
            "region: score, labels and p are of it alone. The healthy scores are of whole bodies, and "
            f"the highest of a part is lower by chance, so p is too large{against}."
        ]
        if self.volume_ml < MIN_ML:
            found.append(
                f"region: it has {self.volume_ml:.2g} ml, and places below {MIN_ML} ml are no candidates, so that none "
                "can be found in it, whatever its score."
            )
        if self.absent:
            found.append(f"region: {self.absent} of the labels asked for have no voxel in the mask.")
        if self.share_inside < WHOLE:
            found.append(f"region: {_percent(self.share_inside)} of the mask lies in the scan; the rest is not scored.")
        if self.share_scored < WHOLE:
            found.append(
                f"region: {_percent(self.share_scored)} of it lies beneath the skin and in the prior's field of view; "
                "nothing is marked in the rest."
            )
        return found


def _parts(text: Any) -> list[str]:
    return [part for part in str(text).split(_BETWEEN) if part]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _ml(region: NDArray[np.bool_], affine: torch.Tensor) -> float:
    voxel_ml = float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])) / 1000)
    return int(np.count_nonzero(region)) * voxel_ml


def _check_frame(mask: Mask, volume: MetaTensor) -> None:
    """Refuse a mask that was drawn in other coordinates, where both say in which."""
    frame = volume.meta.get("frame_of_reference")
    if mask.frame_of_reference and frame and mask.frame_of_reference != frame:
        raise InputError(
            f"--roi: got a mask with FrameOfReferenceUID {mask.frame_of_reference}, expected that of the scan, {frame}"
            "; give the mask of this scan, or register it and save it as .nii.gz: coordinates of two frames have "
            "nothing to do with each other"
        )


def _outside(mask: Mask, volume: MetaTensor) -> str:
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape[1:]) - 1)
    got = _extent(mask.affine, np.argwhere(mask.values))
    expected = _extent(np.asarray(volume.affine, dtype=np.float64), corners)
    return (
        f"--roi: got a region that lies outside of the scan, at RAS {got} mm, expected it within {expected} mm; give "
        "the mask of this very scan"
    )


def _extent(affine: NDArray[np.float64], places: NDArray[Any]) -> str:
    """From where to where voxels (N, 3) lie, along three axes in mm."""
    at = places @ affine[:3, :3].T + affine[:3, 3]
    return ", ".join(f"{low:.0f} to {high:.0f}" for low, high in zip(at.min(axis=0), at.max(axis=0), strict=True))
