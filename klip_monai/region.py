"""A region of a scan to look at: read from a mask, checked against the scan, and all that lies beside it left out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from klip_monai.errors import InputError
from klip_monai.io.mask import Mask, read_mask
from klip_monai.io.mask_grid import on_grid
from klip_monai.io.roi import Roi
from klip_monai.scoring import MIN_ML
from klip_monai.standard import beneath_skin, slice_axis

Data = dict[Hashable, Any]

WHOLE = 0.995
"""Shares from here on are not remarked upon: they are what the edges of two grids differ by."""

_BETWEEN = "\n"  # labels; MONAI can batch a string


class LoadRegiond(MapTransform):
    """Read the region to look at, and refuse one that is not the scan's before anything is scored.

    Goes after :class:`klip_monai.transforms.ToPriorGridd`. Scans that come without a region pass as they are.

    The region lands on the scan's grid, and from there on that of the standard slices, by
    :func:`klip_monai.io.mask_grid.on_grid`: a voxel is in it if its centre is.

    Args:
        keys: key of the region, taken out: `FILE` or `FILE:LABELS`, a :class:`klip_monai.io.roi.Roi`, or None.
        source_key: key of the scan, MetaTensor (1, X, Y, Z).
        image_key: key of its standard slices, MetaTensor (1, H, W, Z).
        body_key: key of their body mask, bool (1, H, W, Z).
        skin_px: thickness of the rim that is not scored, see :class:`klip_monai.inferer.KLIPInferer`.
        region_key: where the region goes, MetaTensor bool (1, X, Y, Z); its meta says what :class:`Region` reads.
        slices_key: where the region on the standard slices goes, bool (1, H, W, Z).
        keep_names: let the file's name and the names of its segments into the meta.

    Raises:
        InputError: when called, if the mask cannot be read, belongs to another frame of reference, lies outside of the
            scan, or has nothing in it that is scored.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        source_key: str = "source",
        image_key: str = "image",
        body_key: str = "body",
        skin_px: float = 0.0,
        region_key: str = "region",
        slices_key: str = "region_slices",
        keep_names: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.source_key, self.image_key, self.body_key, self.skin_px = source_key, image_key, body_key, skin_px
        self.region_key, self.slices_key, self.keep_names = region_key, slices_key, keep_names

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Read the region, if there is one."""
        d = dict(data)
        for key in self.key_iterator(d):
            roi = d.pop(key)
            if roi is None:
                continue
            roi = roi if isinstance(roi, Roi) else Roi.parse(str(roi))
            volume, image, mask = d[self.source_key], d[self.image_key], read_mask(roi)
            _check_frame(mask, volume)
            region, inside = on_grid(
                mask.values, mask.affine, shape=volume.shape[1:], target=np.asarray(volume.affine, dtype=np.float64)
            )
            if not region.any():
                raise InputError(_outside(mask, volume))
            slices, reached = region_on_slices(region, volume.affine, shape=image.shape[1:], target=image.affine)
            body = torch.as_tensor(d[self.body_key]).as_subclass(torch.Tensor)[0].bool()
            scored = slices & beneath_skin(body.permute(2, 0, 1)[:, None], skin_px=self.skin_px)[:, 0].permute(1, 2, 0)
            if not scored.any():
                raise InputError(
                    f"--roi: got a region of {_ml(region, volume.affine):.3g} ml, nothing of which lies beneath the "
                    "skin and in the prior's field of view, expected one inside of the body; give the mask of this scan"
                )
            meta = {
                "sha256": mask.sha256,
                "labels": _BETWEEN.join(map(str, mask.labels)),
                "absent": mask.absent,
                "names": _BETWEEN.join([roi.path.name, *mask.names]) if self.keep_names else "",
                "share_inside": inside,
                "share_scored": reached * int(scored.sum()) / int(slices.sum()),
            }
            d[self.region_key] = MetaTensor(torch.from_numpy(region)[None], affine=volume.affine, meta=meta)
            d[self.slices_key] = slices[None]
        return d


class WithinRegiond(MapTransform):
    """Set maps to zero outside of the region, if there is one.

    Args:
        keys: keys of maps on the scan's grid, MetaTensor (1, X, Y, Z).
        region_key: key of the region, from :class:`LoadRegiond`.
    """

    def __init__(self, keys: KeysCollection, *, region_key: str = "region") -> None:
        super().__init__(keys)
        self.region_key = region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Mask the maps."""
        d = dict(data)
        if self.region_key in d:
            region = torch.as_tensor(d[self.region_key]).as_subclass(torch.Tensor).bool()
            for key in self.key_iterator(d):
                d[key] = d[key] * region.to(d[key].device)
        return d


def region_on_slices(
    region: NDArray[np.bool_] | torch.Tensor,
    affine: NDArray[np.float64] | torch.Tensor,
    *,
    shape: Sequence[int],
    target: NDArray[np.float64] | torch.Tensor,
) -> tuple[torch.Tensor, float]:
    """A region of a scan on its standard slices.

    Args:
        region: bool (X, Y, Z) on the scan's grid; not empty.
        affine: (4, 4) of the scan to RAS mm.
        shape: (H, W, Z) of the standard slices.
        target: (4, 4) of the standard slices to RAS mm.

    Returns:
        Bool (H, W, Z), and the share of the region that they cover.
    """
    to, of = np.asarray(target, dtype=np.float64), np.asarray(affine, dtype=np.float64)
    slices, reached = on_grid(np.asarray(region, dtype=bool), of, shape=shape, target=to)
    return torch.from_numpy(slices), reached


@dataclass(frozen=True)
class Region:
    """What a summary says of a region.

    Attributes:
        voxels: of the scan that belong to it.
        volume_ml: of these voxels.
        slices: of the slices that were scored, those that have one of them.
        sha256: hash of the mask that was read, see :attr:`klip_monai.io.mask.Mask.sha256`.
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
        """Read what :class:`LoadRegiond` put into the meta of a region, MetaTensor bool (1, X, Y, Z)."""
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

    def describe(self) -> dict[str, Any]:
        """JSON-able; names only if they may be told."""
        return {
            "mask_sha256": self.sha256,
            "labels": list(self.labels),
            "voxels": self.voxels,
            "volume_ml": self.volume_ml,
            "slices": self.slices,
            "share_inside": self.share_inside,
            "share_scored": self.share_scored,
            **({"names": list(self.names)} if self.names else {}),
        }

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
