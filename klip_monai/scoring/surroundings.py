"""What surrounds each place of a slice, without the place itself.

How much healthy tissue scores follows the anatomy around it (bowel, bone edges, vessels, smooth liver). A lesion
changes what is in its own place; so whoever predicts a healthy score there must not look at it. Nothing of the picture
from within 9 mm of a place, and nothing of the density from within 21 mm, is among its surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import avg_pool2d, pad

COARSE_MM = 3.0
"""Pixel size that surroundings are taken on, if the slice's pixels allow."""

_RINGS_MM = ((9.0, 18.0), (18.0, 36.0), (36.0, 60.0))  # of the picture: square, from and to
_DENSITY_RINGS_MM = ((21.0, 36.0), (36.0, 60.0))
_AWAY_MM = (27.0, 48.0)  # where single spots are looked at
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
_FLAT = 1e-6  # variance of a ring without any structure, and the least density

FEATURES = 3 * len(_RINGS_MM) + len(_AWAY_MM) * len(_DIRECTIONS) + 5 + len(_DENSITY_RINGS_MM) + 2
"""How many numbers describe the surroundings of a place."""


def coarser(shape: Sequence[int], pixel_mm: float) -> int:
    """Pixels of slices (..., H, W), along either side, in one of the grid of surroundings."""
    factor = max(1, round(COARSE_MM / pixel_mm))
    return factor if not any(side % factor for side in shape[-2:]) else 1


def surroundings(
    images: torch.Tensor, body: torch.Tensor, density: torch.Tensor, *, pixel_mm: float, noise_left: torch.Tensor
) -> torch.Tensor:
    """The surroundings of all places of some slices.

    Args:
        images: standard slices, float32 (B, 1, H, W) in [-1, 1].
        body: bool (B, 1, H, W).
        density: their smoothed KL density, float32 (B, 1, H, W), nats per pixel.
        pixel_mm: pixel spacing of the slices.
        noise_left: share of the noise's energy that the mean along the scan has left in each slice, float32 (B,), see
            :attr:`klip_monai.scoring.AlongScan.noise_left`.

    Returns:
        Float32 (B, :data:`FEATURES`, h, w): of square rings the picture's mean, the logarithm of its standard deviation
        and the share of body; the picture in spots in eight directions; depth beneath the skin, place within the body
        and its size; log density in wider rings and in the whole slice; and ``noise_left``.
    """
    factor = coarser(images.shape, pixel_mm)
    pixel_mm *= factor
    inside = avg_pool2d(body.float(), factor)
    picture, scored = avg_pool2d(images, factor), avg_pool2d(density, factor).clamp_min(_FLAT).log()
    features = [
        *_rings(picture, inside, pixel_mm),
        *_spots(picture, pixel_mm),
        *_place(inside >= 0.5, pixel_mm),
        *_density(scored, inside, pixel_mm),
        noise_left[:, None, None, None].expand_as(inside),
    ]
    return torch.cat(features, dim=1)


def _rings(picture: torch.Tensor, inside: torch.Tensor, pixel_mm: float) -> Iterator[torch.Tensor]:
    for ring in _in_pixels(_RINGS_MM, pixel_mm):
        area, body = _ring(torch.ones_like(inside[:1]), ring), _ring(inside, ring)
        mean = _ring(picture * inside, ring) / body.clamp_min(1.0)
        variance = _ring(picture.square() * inside, ring) / body.clamp_min(1.0) - mean.square()
        yield mean
        yield variance.clamp_min(_FLAT).log() / 2 + 2
        yield body / area


def _spots(picture: torch.Tensor, pixel_mm: float) -> Iterator[torch.Tensor]:
    spot, (height, width) = _box(picture + 1, 1) / 9 - 1, picture.shape[-2:]
    margin = round(max(_AWAY_MM) / pixel_mm)
    wide = pad(spot, (margin,) * 4, value=-1.0)  # air around
    for away_mm in _AWAY_MM:
        for down, right in _DIRECTIONS:
            away = round(away_mm / pixel_mm / float(np.hypot(down, right)))
            top, left = margin + down * away, margin + right * away
            yield wide[..., top : top + height, left : left + width]


def _place(inside: torch.Tensor, pixel_mm: float) -> Iterator[torch.Tensor]:
    """Depth in units of 60 mm; place from -1 to 1 between the body's outermost rows and columns, and how lateral."""
    planes = inside[:, 0].numpy()
    depth = np.stack([ndimage.distance_transform_edt(plane) for plane in planes])
    yield torch.from_numpy(depth.astype(np.float32))[:, None] * (pixel_mm / 60)
    for axis in (1, 2):
        at = np.arange(planes.shape[axis])
        ends = [np.flatnonzero(plane.any(axis=2 - axis)) for plane in planes]
        rows = [(at - e[0]) / (e[-1] - e[0] + 1) * 2 - 1 if len(e) else 0 * at for e in ends]
        values = torch.from_numpy(np.stack(rows).astype(np.float32))
        place = (values[:, None, :, None] if axis == 1 else values[:, None, None, :]).expand(inside.shape)
        yield place
    yield place.abs()
    yield inside.float().sum(dim=(2, 3), keepdim=True).expand(inside.shape) * (pixel_mm**2 / 36_000)


def _density(scored: torch.Tensor, inside: torch.Tensor, pixel_mm: float) -> Iterator[torch.Tensor]:
    """Means of the log density, brought near to -1 to 1."""
    scored = scored * inside
    for ring in _in_pixels(_DENSITY_RINGS_MM, pixel_mm):
        yield (_ring(scored, ring) / _ring(inside, ring).clamp_min(1.0) + 4) / 2
    whole = scored.sum(dim=(2, 3), keepdim=True) / inside.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
    yield ((whole + 4) / 2).expand(inside.shape)


def _in_pixels(rings_mm: tuple[tuple[float, float], ...], pixel_mm: float) -> list[tuple[int, int]]:
    return [(max(1, round(a / pixel_mm)), max(1, round(b / pixel_mm))) for a, b in rings_mm]


def _ring(values: torch.Tensor, ring: tuple[int, int]) -> torch.Tensor:
    """Sums of (B, 1, h, w) over the pixels from ``ring[0]`` to ``ring[1]`` rows or columns away."""
    return _box(values, ring[1]) - _box(values, ring[0] - 1)


def _box(values: torch.Tensor, reach: int) -> torch.Tensor:
    """Sums over the pixels at most ``reach`` rows and columns away, as differences of running sums."""
    side = 2 * reach + 1
    sums = pad(values.double(), (reach + 1, reach, reach + 1, reach)).cumsum(-1).cumsum(-2)
    total = sums[..., side:, side:] - sums[..., :-side, side:] - sums[..., side:, :-side] + sums[..., :-side, :-side]
    return total.float()
