"""What putting anomalies into healthy slices takes: room for them, and shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from klip_monai.scoring import local_contrast
from klip_monai.standard import PriorGrid

ORGAN_HU = (0.0, 180.0)
"""Mean HU of tissue that a tumour can lie in."""

EDGE_MM = 1.0
"""Width of a tumour's edge."""

_EVEN_HU = 40.0  # highest local standard deviation within an organ
_EVEN_MM = 3.0  # neighbourhood of that
_OVERSAMPLING = 4


def per_hu(grid: PriorGrid) -> float:
    """Units of the [-1, 1] image in one HU."""
    return 2 / (grid.hu_window[1] - grid.hu_window[0])


def in_window(hu: float, grid: PriorGrid) -> float:
    """The value of an HU in the [-1, 1] image."""
    return (hu - grid.hu_window[0]) * per_hu(grid) - 1


def organs(image: torch.Tensor, body: torch.Tensor, grid: PriorGrid) -> NDArray[np.bool_]:
    """Even soft tissue of a slice: float32 (1, H, W) in [-1, 1] and its body, bool (1, H, W), to bool (H, W)."""
    low, high = (in_window(hu, grid) for hu in ORGAN_HU)
    sigma = _EVEN_MM / grid.pixel_mm
    mean = ndimage.gaussian_filter(image[0].numpy(), sigma)
    even = local_contrast(image[None], sigma_px=sigma)[0, 0].numpy() <= _EVEN_HU * per_hu(grid)
    return np.asarray(body[0].numpy() & even & (mean >= low) & (mean <= high))


def pick(candidates: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp] | None:
    """Index of a random place that is True, of as many numbers as there are axes; None if there is none."""
    at = np.argwhere(candidates)
    return at[rng.integers(len(at))] if len(at) else None


def outline(angle: NDArray[np.float64], radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Distance from the centre to the edge of a deformed ellipse, at most ``radius``, in each direction, radians."""
    flat, tilt = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    edge = flat / np.sqrt((flat * np.cos(angle - tilt)) ** 2 + np.sin(angle - tilt) ** 2)
    for k in range(2, 6):
        edge = edge * (1 + rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)))
    return np.asarray(radius * edge / max(float(edge.max()), 1.0))


def soft_edge(depth: NDArray[np.float64], *, width: float) -> NDArray[np.float64]:
    """1 inside of an edge, 0 outside, 0.5 on it: from the depth below it, in the unit of ``width``."""
    return np.asarray(1 / (1 + np.exp(np.clip(-4 * depth / width, -50, 50))))


def star(radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Corners (x, y) of a star around the origin, float64 (N, 2), its points ``radius`` away."""
    points = rng.integers(5, 9)
    angles = rng.uniform(0, 2 * np.pi) + np.pi * np.arange(2 * points) / points
    reach = np.where(np.arange(2 * points) % 2 == 0, radius, rng.uniform(0.35, 0.55) * radius)
    return np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)


def polygon(shape: torch.Size, corners: NDArray[np.float64]) -> NDArray[np.float32]:
    """Share of each pixel that a polygon of (x, y) corners covers, float32 (H, W)."""
    fine = Image.new("L", (shape[1] * _OVERSAMPLING, shape[0] * _OVERSAMPLING))
    ImageDraw.Draw(fine).polygon([tuple(p) for p in ((corners + 0.5) * _OVERSAMPLING).tolist()], fill=255)
    blocks: NDArray[Any] = np.asarray(fine, dtype=np.float32)
    blocks = blocks.reshape(shape[0], _OVERSAMPLING, shape[1], _OVERSAMPLING)
    return np.asarray(blocks.mean(axis=(1, 3)) / 255)
