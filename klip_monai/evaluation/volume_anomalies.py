"""Synthetic anomalies for the neighbouring slices of a healthy scan: lesions that go on from slice to slice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from klip_monai.errors import InputError
from klip_monai.evaluation.insertion import EDGE_MM, in_window, organs, outline, per_hu, pick, polygon, soft_edge, star
from klip_monai.standard import PriorGrid

_FLATTEST = 0.6  # extent along the scan of the flattest lesion, in radii
_NOTHING = 1e-3  # less of a soft edge than this leaves a slice as it is


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Neighbouring standard slices of one scan, and where there is room in them.

    Attributes:
        images: float32 (Z, 1, H, W) in [-1, 1].
        body: bool (Z, 1, H, W), True inside the body.
        grid: the slices' format.
        slice_mm: distance of neighbours, mm.

    Raises:
        InputError: if slices and body have different shapes, or the distance is not positive.
    """

    images: torch.Tensor
    body: torch.Tensor
    grid: PriorGrid
    slice_mm: float

    def __post_init__(self) -> None:
        expected = (len(self.images), 1, *self.grid.image_shape)
        if not tuple(self.images.shape) == tuple(self.body.shape) == expected:
            shapes = f"{tuple(self.images.shape)} and {tuple(self.body.shape)}"
            raise InputError(f"slices and body: got shapes {shapes}, expected {expected} of both")
        if not self.slice_mm > 0:
            raise InputError(f"slice_mm: got {self.slice_mm}, expected a positive number of mm")

    def __len__(self) -> int:
        """Number of slices Z."""
        return len(self.images)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the axes Z, H and W."""
        return self.slice_mm, self.grid.pixel_mm, self.grid.pixel_mm

    @cached_property
    def organ_depth(self) -> NDArray[np.float32]:
        """Distance of each pixel to what is no even soft tissue, or to an end of the scan: float32 (Z, H, W), mm."""
        planes = zip(self.images, self.body, strict=True)
        return self._depth(np.stack([organs(image, body, self.grid) for image, body in planes]))

    @cached_property
    def body_depth(self) -> NDArray[np.float32]:
        """Distance of each pixel to what is no body, or to an end of the scan: float32 (Z, H, W), mm."""
        return self._depth(self.body[:, 0].numpy())

    def _depth(self, part: NDArray[np.bool_]) -> NDArray[np.float32]:
        ended = np.pad(part, ((1, 1), (0, 0), (0, 0)))  # what does not go on is no room
        return ndimage.distance_transform_edt(ended, sampling=self.spacing_mm)[1:-1].astype(np.float32)

    def heights(self, centre: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
        """Of each slice above a centre (z, y, x) that lies anywhere between two slices, mm: float64 (Z,)."""
        return (np.arange(len(self)) - centre[0] - rng.uniform(-0.5, 0.5)) * self.slice_mm

    def changed(self, changes: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The slices with some of them replaced, and where.

        Args:
            changes: by slice, the new one, float32 (1, H, W), and how much of each pixel is changed, (1, H, W), 0 to 1.

        Returns:
            Slices, float32 (Z, 1, H, W), and mask, bool (Z, 1, H, W), True in the body where at least half is changed.
        """
        images, mask = self.images.clone(), torch.zeros_like(self.body)
        for z, (image, share) in changes.items():
            images[z], mask[z] = image, (share >= 0.5) & self.body[z]
        return images, mask


@dataclass(frozen=True)
class VolumeTumours:
    """Deformed ellipsoids, darker or brighter than the organ that holds them; its texture stays.

    Along the scan they reach 0.6 to 1 times as far as their radius, upwards and downwards each its own. A slice shows
    what lies in its plane: there is no partial volume.

    Attributes:
        radius_mm: range of the radius, the longest in the plane.
        contrast_hu: range of the difference from the organ, either way.
    """

    radius_mm: tuple[float, float] = (4.0, 20.0)
    contrast_hu: tuple[float, float] = (65.0, 145.0)

    def __call__(self, scan: SliceStack, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put one into a scan.

        Args:
            scan: the healthy slices.
            rng: source of all randomness.

        Returns:
            Slices, float32 (Z, 1, H, W) in [-1, 1], of which those without the lesion are as they were, and its mask,
            bool (Z, 1, H, W); None if no organ has room for a ball of the radius drawn.
        """
        radius = rng.uniform(*self.radius_mm)
        contrast = rng.uniform(*self.contrast_hu) * rng.choice([-1, 1]) * per_hu(scan.grid)
        centre = pick(scan.organ_depth >= radius, rng)
        if centre is None:
            return None
        y, x = _around(centre, scan)
        across, edge = np.hypot(y, x), outline(np.arctan2(y, x), radius, rng)
        down, up = radius * rng.uniform(_FLATTEST, 1.0, size=2)
        changes = {}
        for z, height in enumerate(scan.heights(centre, rng)):
            # Below the surface along the ray from the centre, so that the edge is as soft on top as at the sides.
            away = np.hypot(across, height)
            share = np.hypot(across / edge, height / (up if height > 0 else down))
            depth = away / np.maximum(share, 1e-6) - away
            soft = _tensor(soft_edge(np.where(share > 0, depth, radius), width=EDGE_MM))
            if soft.any():
                changes[z] = ((scan.images[z] + contrast * soft).clamp(-1, 1), soft)
        return scan.changed(changes)


@dataclass(frozen=True)
class VolumeStars:
    """Bright stars with straight edges, anywhere in the body, that come to a point up and down the scan.

    Attributes:
        radius_mm: range of the distance from the centre to the points in the plane; 0.6 to 1 times that along the scan.
        value_hu: range of their HU.
    """

    radius_mm: tuple[float, float] = (6.0, 20.0)
    value_hu: tuple[float, float] = (160.0, 240.0)

    def __call__(self, scan: SliceStack, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put one into a scan; see :meth:`VolumeTumours.__call__`."""
        radius = rng.uniform(*self.radius_mm)
        value = in_window(rng.uniform(*self.value_hu), scan.grid)
        centre = pick(scan.body_depth >= radius, rng)
        if centre is None:
            return None
        corners = star(radius / scan.grid.pixel_mm, rng)
        reach = radius * rng.uniform(_FLATTEST, 1.0)
        changes = {}
        for z, height in enumerate(scan.heights(centre, rng)):
            size = 1 - abs(height) / reach
            if size > 0:
                soft = _tensor(polygon(scan.images.shape[-2:], centre[:0:-1] + size * corners))
                changes[z] = (scan.images[z] + (value - scan.images[z]) * soft, soft)
        return scan.changed(changes)


def _around(centre: NDArray[np.intp], scan: SliceStack) -> NDArray[np.float64]:
    """Place (y, x) of each pixel, seen from the centre, mm: float64 (2, H, W)."""
    height, width = scan.grid.image_shape
    return np.asarray((np.mgrid[:height, :width] - centre[1:, None, None]) * scan.grid.pixel_mm, dtype=np.float64)


def _tensor(soft: NDArray[Any]) -> torch.Tensor:
    """A soft edge (H, W) as float32 (1, H, W), none where it is next to nothing."""
    return torch.from_numpy(np.where(soft < _NOTHING, 0, soft).astype(np.float32))[None]
