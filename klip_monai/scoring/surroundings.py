"""What surrounds each place of a slice, without the place itself.

How much healthy tissue scores follows the anatomy around it (bowel, bone edges, vessels, smooth liver). A lesion
changes what is in its own place; so whoever predicts a healthy score there must not look at it. Nothing of the picture
from within 9 mm of a place, and nothing of the density from within 21 mm, is among its surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

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
    farthest = max(outer for _, outer in _in_pixels(_RINGS_MM + _DENSITY_RINGS_MM, pixel_mm))
    around = Boxes(inside, reach=farthest)
    features = [
        *_rings(picture, inside, around, pixel_mm),
        *_spots(picture, pixel_mm),
        *_place(inside >= 0.5, pixel_mm),
        *_density(scored, inside, around, pixel_mm),
        noise_left[:, None, None, None].expand_as(inside),
    ]
    return torch.cat(features, dim=1)


def _rings(picture: torch.Tensor, inside: torch.Tensor, body: Boxes, pixel_mm: float) -> Iterator[torch.Tensor]:
    rings = _in_pixels(_RINGS_MM, pixel_mm)
    boxes = partial(Boxes, reach=max(outer for _, outer in rings))
    whole = boxes(torch.ones_like(inside[:1]))
    values, squares = boxes(picture * inside), boxes(picture.square() * inside)
    for ring in rings:
        within = body.ring(ring)
        pixels = within.clamp_min(1.0)
        mean = values.ring(ring) / pixels
        variance = squares.ring(ring) / pixels - mean.square()
        yield mean
        yield variance.clamp_min(_FLAT).log() / 2 + 2
        yield within / whole.ring(ring)


def _spots(picture: torch.Tensor, pixel_mm: float) -> Iterator[torch.Tensor]:
    spot, (height, width) = Boxes(picture + 1, reach=1).within(1) / 9 - 1, picture.shape[-2:]
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


def _density(scored: torch.Tensor, inside: torch.Tensor, body: Boxes, pixel_mm: float) -> Iterator[torch.Tensor]:
    """Means of the log density, brought near to -1 to 1."""
    scored, rings = scored * inside, _in_pixels(_DENSITY_RINGS_MM, pixel_mm)
    sums = Boxes(scored, reach=max(outer for _, outer in rings))
    for ring in rings:
        yield (sums.ring(ring) / body.ring(ring).clamp_min(1.0) + 4) / 2
    whole = scored.sum(dim=(2, 3), keepdim=True) / inside.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
    yield ((whole + 4) / 2).expand(inside.shape)


def _in_pixels(rings_mm: tuple[tuple[float, float], ...], pixel_mm: float) -> list[tuple[int, int]]:
    return [(max(1, round(a / pixel_mm)), max(1, round(b / pixel_mm))) for a, b in rings_mm]


class Boxes:
    """Sums of (B, 1, h, w) over the boxes around each pixel, as differences of running sums that are made once."""

    def __init__(self, values: torch.Tensor, *, reach: int) -> None:
        """Sum float32 values up; ``reach``: the most rows and columns that a box reaches to either side."""
        self._reach, (self._height, self._width) = reach, values.shape[-2:]
        self._running = pad(values.double(), (reach + 1, reach, reach + 1, reach)).cumsum(-1).cumsum(-2)
        self._of: dict[int, torch.Tensor] = {}

    def within(self, reach: int) -> torch.Tensor:
        """Sums over the pixels at most ``reach`` rows and columns away, float32 (B, 1, h, w)."""
        if reach not in self._of:
            first, behind = self._reach - reach, self._reach + reach + 1
            (top, bottom), (left, right) = (
                (slice(first, first + side), slice(behind, behind + side)) for side in (self._height, self._width)
            )
            sums = self._running
            total = sums[..., bottom, right] - sums[..., top, right] - sums[..., bottom, left] + sums[..., top, left]
            self._of[reach] = total.float()
        return self._of[reach]

    def ring(self, ring: tuple[int, int]) -> torch.Tensor:
        """Sums over the pixels from ``ring[0]`` to ``ring[1]`` rows or columns away."""
        return self.within(ring[1]) - self.within(ring[0] - 1)
