"""What healthy tissue scores, by local contrast: the null that makes a KL density comparable across tissues.

Where anatomy is sharp (bowel gas, cortical bone) the measurement tells even a perfect prior much, so healthy edges
outscore a faint lesion in a smooth liver. How much healthy tissue scores at each local contrast is measured on healthy
scans, and divided out. No out-of-distribution data takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klip_monai.errors import InputError
from klip_monai.scoring.density import smooth

Values = NDArray[Any]
"""A floating-point array."""

CONTRAST_MM = 6.0
"""Neighbourhood of the local contrast that heat maps are calibrated by: a Gaussian of this standard deviation."""

_EDGES = np.geomspace(0.01, 1.0, 21)  # of the bins of local contrast: tenths of a decade
_MIN_PIXELS = 200  # a bin with fewer says too little; its neighbours are interpolated
_FLOOR = 1e-6
_LEAST = 0.25  # of the average: the least that is expected anywhere


def contrast_px(pixel_mm: float) -> float:
    """:data:`CONTRAST_MM` in pixels."""
    return CONTRAST_MM / pixel_mm


def local_contrast(images: torch.Tensor, *, sigma_px: float) -> torch.Tensor:
    """Standard deviation of the values around each pixel, Gaussian-weighted.

    Args:
        images: standard slices, float (B, 1, H, W) in [-1, 1].
        sigma_px: standard deviation of the weights, in pixels.

    Returns:
        Same shape, at least 0.001, in units of the [-1, 1] image.
    """
    weight = smooth(torch.ones_like(images[:1]), sigma_px=sigma_px)  # below 1 where the kernel leaves the image
    mean = smooth(images, sigma_px=sigma_px) / weight
    variance = smooth(images.square(), sigma_px=sigma_px) / weight - mean.square()
    return variance.clamp_min(_FLOOR).sqrt()


@dataclass(frozen=True)
class ContrastSums:
    """Density of healthy pixels summed by bins of local contrast; sums of scans add up.

    Attributes:
        pixels: int64 (bins,), number of pixels.
        nats: float64 (bins,), their summed density.
    """

    pixels: NDArray[np.int64]
    nats: NDArray[np.float64]

    @classmethod
    def of(cls, density: Values, contrast: Values) -> ContrastSums:
        """Sum in-body pixels: density (N,) in nats per pixel and local contrast (N,)."""
        bins = np.digitize(contrast, _EDGES[1:-1])
        n = len(_EDGES) - 1
        return cls(
            np.bincount(bins, minlength=n).astype(np.int64),
            np.bincount(bins, weights=density, minlength=n).astype(np.float64),
        )

    def __add__(self, other: ContrastSums) -> ContrastSums:
        return ContrastSums(self.pixels + other.pixels, self.nats + other.nats)

    def __sub__(self, other: ContrastSums) -> ContrastSums:
        return ContrastSums(self.pixels - other.pixels, self.nats - other.nats)


@dataclass(frozen=True)
class ExpectedDensity:
    """Mean KL density of healthy tissue as a function of local contrast.

    Attributes:
        contrast_px: neighbourhood of :func:`local_contrast`, in pixels of the prior's grid.
        contrast: knots, ascending, in units of the [-1, 1] image.
        density: mean density at the knots, nats per pixel; linear in between over log contrast, constant beyond.
        average: mean density of all healthy in-body pixels, nats per pixel.
        strength: how much of it a calibrated map is relieved of, as an exponent. 1: all, so that healthy tissue scores
            alike at every contrast; 0: nothing. A lesion's own edges raise what is expected of them: the less is taken
            off, the brighter sharp lesions stay, and the more healthy edges outshine faint ones.
    """

    contrast_px: float
    contrast: tuple[float, ...]
    density: tuple[float, ...]
    average: float
    strength: float = 1.0

    @classmethod
    def fit(cls, sums: ContrastSums, *, contrast_px: float, strength: float = 1.0) -> ExpectedDensity:
        """Take the mean of each bin that holds enough pixels, but a quarter of the average at least.

        Where a slice is flat, as lung and gas are that lie below the window, next to nothing is expected, and next to
        nothing divided by it would outshine any lesion.

        Args:
            sums: of healthy scans.
            contrast_px: the neighbourhood that the contrast was taken in, pixels.
            strength: how much of it calibrated maps are to be relieved of, 0 to 1.

        Raises:
            InputError: if no bin holds enough pixels.
        """
        enough = sums.pixels >= _MIN_PIXELS
        if not enough.any():
            raise InputError(
                f"healthy scans: got {int(sums.pixels.sum())} in-body pixels, expected {_MIN_PIXELS} and more of alike "
                "tissue; add scans"
            )
        middles = np.sqrt(_EDGES[1:] * _EDGES[:-1])[enough]
        average = float(sums.nats.sum() / sums.pixels.sum())
        means = np.maximum(sums.nats[enough] / sums.pixels[enough], max(_LEAST * average, _FLOOR))
        return cls(contrast_px, tuple(map(float, middles)), tuple(map(float, means)), average, strength)

    def at(self, contrast: Values) -> Values:
        """Expected density in nats per pixel at local contrasts of any shape."""
        return np.exp(np.interp(np.log(contrast), np.log(self.contrast), np.log(self.density)))

    def gain(self, images: torch.Tensor) -> torch.Tensor:
        """What to multiply a heat map with: (``average`` / expected at each pixel's local contrast) ** ``strength``.

        Args:
            images: the standard slices that the heat map belongs to, float32 (B, 1, H, W) in [-1, 1].

        Returns:
            Float32 (B, 1, H, W), without unit. A heat map times it is in nats per pixel of average healthy tissue.
        """
        return self.gain_at(local_contrast(images, sigma_px=self.contrast_px))

    def gain_at(self, contrast: torch.Tensor) -> torch.Tensor:
        """The same from :func:`local_contrast` of the slices, of any shape."""
        return torch.from_numpy(self._gain(contrast.cpu().numpy()).astype(np.float32)).to(contrast.device)

    def calibrated(self, density: Values, contrast: Values) -> Values:
        """Densities in nats per pixel at local contrasts, both of any one shape, relieved of what is expected there."""
        return density * self._gain(contrast)

    def _gain(self, contrast: Values) -> Values:
        return (self.average / self.at(contrast)) ** self.strength


def leave_one_out(
    density: Sequence[Values], contrast: Sequence[Values], *, contrast_px: float, strength: float = 1.0
) -> tuple[ExpectedDensity, list[Values]]:
    """The expected density of all healthy scans, and each scan calibrated by that of the others.

    Args:
        density: for each scan its in-body density, (N,), nats per pixel.
        contrast: for each scan the local contrast of the same pixels, (N,).
        contrast_px: the neighbourhood that the contrast was taken in, pixels.
        strength: see :class:`ExpectedDensity`.

    Returns:
        The expected density, and for each scan its calibrated density (N,), which the scan itself had no part in: a new
        healthy scan is treated alike, so thresholds from these values hold for it.
    """
    parts = [ContrastSums.of(d, c) for d, c in zip(density, contrast, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    others = [ExpectedDensity.fit(total - part, contrast_px=contrast_px, strength=strength) for part in parts]
    calibrated = [e.calibrated(d, c) for e, d, c in zip(others, density, contrast, strict=True)]
    return ExpectedDensity.fit(total, contrast_px=contrast_px, strength=strength), calibrated
