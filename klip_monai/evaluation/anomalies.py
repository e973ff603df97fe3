"""Synthetic anomalies for healthy slices: stars and tumours (KLIP, CVPR 2026), calcifications, metal, artefacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from klip_monai.evaluation.insertion import EDGE_MM, in_window, organs, outline, per_hu, pick, polygon, soft_edge, star
from klip_monai.physics import ParallelBeam, Tomography
from klip_monai.scoring import smooth
from klip_monai.standard import PriorGrid


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
        contrast = rng.uniform(*self.contrast_hu) * rng.choice([-1, 1]) * per_hu(grid)
        within = ndimage.distance_transform_edt(organs(image, body, grid)) * grid.pixel_mm
        centre = pick(within >= radius, rng)
        if centre is None:
            return None
        inside = _blob(image.shape[-2:], centre, radius / grid.pixel_mm, EDGE_MM / grid.pixel_mm, rng)
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
        value = in_window(rng.uniform(*self.value_hu), grid)
        centre = pick(ndimage.distance_transform_edt(body[0].numpy()) >= radius, rng)
        if centre is None:
            return None
        corners = centre[::-1] + star(radius, rng)
        soft = torch.from_numpy(polygon(image.shape[-2:], corners))[None]
        return image + (value - image) * soft, (soft >= 0.5) & body


@dataclass(frozen=True)
class Calcifications:
    """A cluster of small bright discs, brighter than the window reaches.

    Attributes:
        count: range of their number.
        radius_mm: range of the radius of each.
        spread_mm: they lie within this distance of the cluster's centre.
    """

    count: tuple[int, int] = (2, 6)
    radius_mm: tuple[float, float] = (1.5, 4.0)
    spread_mm: float = 15.0

    def __call__(
        self, image: torch.Tensor, body: torch.Tensor, grid: PriorGrid, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put one cluster into a slice; see :meth:`Tumours.__call__`."""
        depth = ndimage.distance_transform_edt(body[0].numpy()) * grid.pixel_mm
        centre = pick(depth >= self.spread_mm + self.radius_mm[1], rng)
        if centre is None:
            return None
        covered = np.zeros(image.shape[-2:], dtype=np.float32)
        for _ in range(rng.integers(self.count[0], self.count[1] + 1)):
            away, angle = self.spread_mm * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            at = centre + away / grid.pixel_mm * np.array([np.sin(angle), np.cos(angle)])
            covered = np.maximum(covered, _disc(image.shape[-2:], at, rng.uniform(*self.radius_mm) / grid.pixel_mm))
        soft = torch.from_numpy(covered)[None]
        return image + (1 - image) * soft, (soft >= 0.5) & body


@dataclass(frozen=True)
class MetalStreaks:
    """A metal disc and the streaks of its beam hardening: the back-projection of what the detector reads too little.

    A beam through metal hardens, so its line integral p is read as p - c p^2; what filtered back-projection makes of
    the square is added (De Man et al., IEEE TNS 1999). The mask is all that changes by ``visible_hu``
    or more.

    Attributes:
        radius_mm: range of the disc's radius.
        streak_hu: range of the depth of the strongest streak, three radii from the centre and further.
        visible_hu: the least change that counts.
    """

    radius_mm: tuple[float, float] = (3.0, 7.0)
    streak_hu: tuple[float, float] = (60.0, 160.0)
    visible_hu: float = 20.0

    def __call__(
        self, image: torch.Tensor, body: torch.Tensor, grid: PriorGrid, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Put one into a slice; see :meth:`Tumours.__call__`."""
        radius = rng.uniform(*self.radius_mm)
        centre = pick(ndimage.distance_transform_edt(body[0].numpy()) * grid.pixel_mm >= radius, rng)
        if centre is None:
            return None
        disc = torch.from_numpy(_disc(image.shape[-2:], centre, radius / grid.pixel_mm))[None]
        scanner = _scanner(tuple(image.shape[-2:]), grid.pixel_mm)
        # Metal alone casts no streaks between itself and itself; the body it lies in does.
        attenuating = (image + 1) / 2 + 4 * disc
        hardened = scanner.A_dagger(scanner.A(attenuating[None]).square(), method="fbp")[0]
        hardened = hardened - scanner.A_dagger(scanner.A((attenuating - 4 * disc)[None]).square(), method="fbp")[0]
        streaks = hardened * (disc < 0.01) * body
        far = streaks * torch.from_numpy(_disc(image.shape[-2:], centre, 3 * radius / grid.pixel_mm) == 0)
        depth = rng.uniform(*self.streak_hu) * per_hu(grid) / float(far.abs().max().clamp_min(1e-6))
        streaked = (image - depth * streaks).clamp(-1, 1)
        ill = streaked + (1 - streaked) * disc
        return ill, ((ill - image).abs() >= self.visible_hu * per_hu(grid)) & body


@dataclass(frozen=True)
class BlurPatch:
    """A disc that lost its detail, as motion and partial volume do it.

    Attributes:
        radius_mm: range of the disc's radius.
        blur_mm: range of the blur's standard deviation.
    """

    radius_mm: tuple[float, float] = (12.0, 30.0)
    blur_mm: tuple[float, float] = (4.0, 8.0)

    def __call__(
        self, image: torch.Tensor, body: torch.Tensor, grid: PriorGrid, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Blur a disc of a slice; see :meth:`Tumours.__call__`."""
        blurred = smooth(image[None], sigma_px=rng.uniform(*self.blur_mm) / grid.pixel_mm)[0]
        return _in_disc(image, blurred, body, radius_px=rng.uniform(*self.radius_mm) / grid.pixel_mm, rng=rng)


@dataclass(frozen=True)
class NoisePatch:
    """A disc with more noise than the scan has, correlated as a reconstruction's is.

    Attributes:
        radius_mm: range of the disc's radius.
        noise_hu: range of the noise's standard deviation.
        grain_mm: standard deviation of its correlation.
    """

    radius_mm: tuple[float, float] = (12.0, 30.0)
    noise_hu: tuple[float, float] = (30.0, 80.0)
    grain_mm: float = 1.5

    def __call__(
        self, image: torch.Tensor, body: torch.Tensor, grid: PriorGrid, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Add noise to a disc of a slice; see :meth:`Tumours.__call__`."""
        noise = ndimage.gaussian_filter(rng.standard_normal(image.shape[-2:]), self.grain_mm / grid.pixel_mm)
        noise = noise / noise.std() * rng.uniform(*self.noise_hu) * per_hu(grid)
        noisy = (image + torch.from_numpy(noise.astype(np.float32))).clamp(-1, 1)
        return _in_disc(image, noisy, body, radius_px=rng.uniform(*self.radius_mm) / grid.pixel_mm, rng=rng)


ANOMALIES: Mapping[str, Callable[..., Callable[..., tuple[torch.Tensor, torch.Tensor] | None]]] = MappingProxyType(
    {
        "stars": Stars,
        "tumours": Tumours,
        "calcifications": Calcifications,
        "metal_streaks": MetalStreaks,
        "blur": BlurPatch,
        "noise": NoisePatch,
    }
)
"""Makers of anomalies by name; all settings have defaults."""


def _in_disc(
    image: torch.Tensor, inside: torch.Tensor, body: torch.Tensor, *, radius_px: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """``inside`` within a random disc in the body, ``image`` around it, and the disc; None without room."""
    centre = pick(ndimage.distance_transform_edt(body[0].numpy()) >= radius_px, rng)
    if centre is None:
        return None
    soft = torch.from_numpy(_disc(image.shape[-2:], centre, radius_px))[None]
    return image + (inside - image) * soft, (soft >= 0.5) & body


@lru_cache(maxsize=4)
def _scanner(shape: tuple[int, int], pixel_mm: float) -> Tomography:
    return Tomography(ParallelBeam(image_shape=shape, pixel_mm=pixel_mm, views=180))


def _disc(shape: torch.Size, centre: NDArray[Any], radius: float) -> NDArray[np.float32]:
    """1 inside a disc, 0 outside, half a pixel of transition either way: float32 (H, W)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return np.asarray(np.clip(radius + 0.5 - distance, 0, 1), dtype=np.float32)


def _blob(
    shape: torch.Size, centre: NDArray[np.intp], radius: float, edge: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """1 inside a deformed ellipse of at most ``radius`` pixels, 0 outside, (H, W)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    y, x = rows - centre[0], columns - centre[1]
    return soft_edge(outline(np.arctan2(y, x), radius, rng) - np.hypot(y, x), width=edge)
