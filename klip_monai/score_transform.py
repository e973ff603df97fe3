"""KLIP as one MONAI transform: CT volume in, heat map on the same voxel grid out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser
from klip_monai.region import region_on_slices
from klip_monai.scoring import IDReference
from klip_monai.standard import PriorGrid, beneath_skin, slice_distance, standard_slices, to_source_grid

Data = dict[Hashable, Any]


class KLIPScore(Transform):
    """Score a CT volume: HU in, heat map (nats per pixel of the prior's grid) on the same voxel grid out.

    Args:
        network: the prior.
        inferer: operator, sampler, window and smoothing.
        grid: the prior's slice format.
        reference: ID reference that calibrates the heat map, made with these settings; None leaves the KL density as
            it is, the one of all spatial frequencies out.
        device: where the network is; what is given and returned may be anywhere, and is returned on the CPU.
    """

    def __init__(
        self,
        network: Denoiser,
        inferer: KLIPInferer,
        *,
        grid: PriorGrid,
        reference: IDReference | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network, self.inferer, self.grid, self.reference = network, inferer, grid, reference
        self.device = device

    def __call__(self, volume: MetaTensor, region: torch.Tensor | None = None) -> MetaTensor:
        """Score ``volume``, float32 HU (1, X, Y, Z), or only the part of it in ``region``, bool (1, X, Y, Z).

        Returns:
            MetaTensor float32 (1, X, Y, Z), zero outside of the region; meta has ``scan_score``, the maximum before it
            was brought back.
        """
        slices = standard_slices(volume, self.grid)
        density = self.on_prior_grid(slices.images, slices.body, slice_mm=slice_distance(slices.placement.affine))
        heatmap, counted = to_source_grid(density, slices.placement), density
        if region is not None:
            shape = (*self.grid.image_shape, len(density))
            inside, _ = region_on_slices(region[0], volume.affine, shape=shape, target=slices.placement.affine)
            heatmap.mul_(region.cpu())
            counted = density * inside.permute(2, 0, 1)[:, None]
        heatmap.meta["scan_score"] = float(counted.max())
        return heatmap

    def on_prior_grid(self, images: torch.Tensor, body: torch.Tensor, *, slice_mm: float | None = None) -> torch.Tensor:
        """Heat map of standard slices.

        Args:
            images: float32 (Z, 1, H, W) in [-1, 1].
            body: bool (Z, 1, H, W).
            slice_mm: their distance if they are neighbours, mm; None reads each by itself.

        Returns:
            Float32 (Z, 1, H, W), zero outside of the body and in the rim that the inferer leaves out.
        """
        density = self.densities(images, slice_mm=slice_mm)
        heatmap = density[:, :1]
        if self.reference is not None:
            left = self.inferer.noise_left(len(images), slice_mm=slice_mm)
            heatmap = self.reference.expected.heatmap(density, images.cpu(), body=body.cpu(), noise_left=left)
        return heatmap * self.counted(body.cpu())

    def counted(self, body: torch.Tensor) -> torch.Tensor:
        """The pixels of a body mask, bool (Z, 1, H, W), that heat maps cover."""
        return beneath_skin(body, skin_px=self.inferer.skin_px)

    def densities(self, images: torch.Tensor, *, slice_mm: float | None = None) -> torch.Tensor:
        """Standard slices (Z, 1, H, W) to what the inferer makes of them: float32 (Z, 1 or 2, H, W) on the CPU."""
        return self.inferer(images.to(self.device), self.network, slice_mm=slice_mm).cpu()


class KLIPScored(MapTransform):
    """Dictionary face of :class:`KLIPScore`.

    Args:
        keys: keys of volumes, MetaTensor float32 HU (1, X, Y, Z).
        score: the transform.
        heatmap_key: where the heat map goes; None replaces the volume.
        region_key: key of the region to score, bool (1, X, Y, Z); need not be there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        score: KLIPScore,
        heatmap_key: str | None = "heatmap",
        region_key: str = "region",
    ) -> None:
        super().__init__(keys)
        self.score, self.heatmap_key, self.region_key = score, heatmap_key, region_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Score the volumes."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.heatmap_key or key] = self.score(d[key], d.get(self.region_key))
        return d
