"""Synthetic anomalies for healthy slices: stars, and tumours in the organ they lie in (KLIP, CVPR 2026)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from klip_monai.scoring import local_contrast
from klip_monai.standard import PriorGrid

ORGAN_HU = (0.0, 180.0)
"""Mean HU of tissue that a tumour can lie in."""

_EVEN_HU = 40.0  # highest local standard deviation within an organ
_EVEN_MM = 3.0  # neighbourhood of that
_EDGE_MM = 1.0
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Tumours:
    """Ellipses with elastic outlines, darker or brighter than the organ that holds them; its texture stays.

    Attributes:
        radius_mm: range of the radius.
        contrast_hu: range of the difference from the organ, either way.
    """

    radius_mm: tuple[float, float] = (4.0, 20.0)
    contrast_hu: tuple[float, float] = (65.0, 145.0)

    def __call__(
        self, image: torch.Tensor, body: torch.Tensor, grid: PriorGrid, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put one into a slice.

        Args:
            image: standard slice, float32 (1, H, W) in [-1, 1].
            body: bool (1, H, W).
            grid: its format.
            rng: source of all randomness.

        Returns:
            Slice and mask, bool (1, H, W); None if no organ has room for the radius drawn.
        """
        radius = rng.uniform(*self.radius_mm)
        contrast = rng.uniform(*self.contrast_hu) * rng.choice([-1, 1]) * _per_hu(grid)
        within = ndimage.distance_transform_edt(_organs(image, body, grid)) * grid.pixel_mm
        centre = _pick(within >= radius, rng)
        if centre is None:
            return None
        inside = _blob(image.shape[-2:], centre, radius / grid.pixel_mm, _EDGE_MM / grid.pixel_mm, rng)
        soft = torch.from_numpy(inside.astype(np.float32))[None]
        return (image + contrast * soft).clamp(-1, 1), (soft >= 0.5) & body


@dataclass(frozen=True)
class Stars:
    """Bright stars with straight edges, anywhere in the body.

    Attributes:
        radius_mm: range of the distance from the centre to the points.
        value_hu: range of their HU.
    """

    radius_mm: tuple[float, float] = (6.0, 20.0)
    value_hu: tuple[float, float] = (160.0, 240.0)

    def __call__(
        self, image: torch.Tensor, body: torch.Tensor, grid: PriorGrid, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put one into a slice; see :meth:`Tumours.__call__`."""
        radius = rng.uniform(*self.radius_mm) / grid.pixel_mm
        value = (rng.uniform(*self.value_hu) - grid.hu_window[0]) * _per_hu(grid) - 1
        centre = _pick(ndimage.distance_transform_edt(body[0].numpy()) >= radius, rng)
        if centre is None:
            return None
        points = rng.integers(5, 9)
        angles = rng.uniform(0, 2 * np.pi) + np.pi * np.arange(2 * points) / points
        reach = np.where(np.arange(2 * points) % 2 == 0, radius, rng.uniform(0.35, 0.55) * radius)
        corners = np.stack([centre[1] + reach * np.cos(angles), centre[0] + reach * np.sin(angles)], axis=1)
        soft = torch.from_numpy(_polygon(image.shape[-2:], corners))[None]
        return image + (value - image) * soft, (soft >= 0.5) & body


def _per_hu(grid: PriorGrid) -> float:
    """Units of the [-1, 1] image in one HU."""
    return 2 / (grid.hu_window[1] - grid.hu_window[0])


def _organs(image: torch.Tensor, body: torch.Tensor, grid: PriorGrid) -> NDArray[np.bool_]:
    """Even soft tissue, bool (H, W)."""
    low, high = ((hu - grid.hu_window[0]) * _per_hu(grid) - 1 for hu in ORGAN_HU)
    sigma = _EVEN_MM / grid.pixel_mm
    mean = ndimage.gaussian_filter(image[0].numpy(), sigma)
    even = local_contrast(image[None], sigma_px=sigma)[0, 0].numpy() <= _EVEN_HU * _per_hu(grid)
    return np.asarray(body[0].numpy() & even & (mean >= low) & (mean <= high))


def _pick(candidates: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp] | None:
    at = np.argwhere(candidates)
    return at[rng.integers(len(at))] if len(at) else None


def _blob(
    shape: torch.Size, centre: NDArray[np.intp], radius: float, edge: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """1 inside a deformed ellipse of at most ``radius`` pixels, 0 outside, (H, W)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    y, x = rows - centre[0], columns - centre[1]
    angle = np.arctan2(y, x)
    flat, tilt = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    outline = flat / np.sqrt((flat * np.cos(angle - tilt)) ** 2 + np.sin(angle - tilt) ** 2)
    for k in range(2, 6):
        outline = outline * (1 + rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)))
    distance = radius * outline / max(float(outline.max()), 1.0) - np.hypot(y, x)
    return np.asarray(1 / (1 + np.exp(np.clip(-4 * distance / edge, -50, 50))))


def _polygon(shape: torch.Size, corners: NDArray[np.float64]) -> NDArray[np.float32]:
    """Share of each pixel that a polygon of (x, y) corners covers, float32 (H, W)."""
    fine = Image.new("L", (shape[1] * _OVERSAMPLING, shape[0] * _OVERSAMPLING))
    ImageDraw.Draw(fine).polygon([tuple(p) for p in ((corners + 0.5) * _OVERSAMPLING).tolist()], fill=255)
    blocks = np.asarray(fine, dtype=np.float32).reshape(shape[0], _OVERSAMPLING, shape[1], _OVERSAMPLING)
    return np.asarray(blocks.mean(axis=(1, 3)) / 255)
