"""What healthy tissue scores, by local contrast: the null that makes a KL density comparable across tissues.

Where anatomy is sharp (bowel gas, cortical bone) the measurement tells even a perfect prior much, so healthy edges
outscore a faint lesion in a smooth liver. How much healthy tissue scores at each local contrast is measured on healthy
scans, and divided out. That finds faint lesions, and plays down bright ones, whose own edges raise what is expected
there; the density of all spatial frequencies, as it is, finds those. A heat map may be the larger of the two, each
measured by what healthy tissue reaches. No out-of-distribution data takes part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
_QUANTILE_PIXELS = 5_000_000  # more say no more of one in a thousand
RARE = 0.999
"""Quantile of healthy pixels from which a value is suspicious, and at which two readings of a density are matched."""


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
        sharp: what the density of all spatial frequencies is multiplied with before it competes with the calibrated
            one: the :data:`RARE` quantiles of both agree in healthy tissue then. None: there is no such density.
    """

    contrast_px: float
    contrast: tuple[float, ...]
    density: tuple[float, ...]
    average: float
    strength: float = 1.0
    sharp: float | None = None

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

    def describe(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {"null": "contrast", **asdict(self)}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> ExpectedDensity:
        """What `describe` gave."""
        curve = {name: value for name, value in described.items() if name != "null"}
        return cls(**{**curve, "contrast": tuple(curve["contrast"]), "density": tuple(curve["density"])})

    def heatmap(
        self,
        density: torch.Tensor,
        images: torch.Tensor,
        *,
        body: torch.Tensor | None = None,
        noise_left: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Multiply a smoothed density with (``average`` / expected at each pixel's local contrast) ** ``strength``.

        Where there is a second density, of all spatial frequencies, the larger of both counts.

        Args:
            density: float32 (B, 1, H, W), or (B, 2, H, W) with the one of all frequencies second, nats per pixel.
            images: the standard slices, float32 (B, 1, H, W) in [-1, 1].
            body: of no use here, see :class:`klip_monai.scoring.ContextNull`.
            noise_left: likewise.

        Returns:
            Float32 (B, 1, H, W), nats per pixel of average healthy tissue.
        """
        return self.heatmap_at(density, local_contrast(images, sigma_px=self.contrast_px))

    def heatmap_at(self, density: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
        """The same from :func:`local_contrast` of the slices, (B, 1, H, W)."""
        gain = torch.from_numpy(self._gain(contrast.cpu().numpy()).astype(np.float32))
        calibrated = density[:, :1] * gain.to(density.device)
        return calibrated if self.sharp is None else torch.maximum(calibrated, density[:, 1:] * self.sharp)

    def calibrated(self, density: Values, contrast: Values) -> Values:
        """The same for single pixels: densities (N, 1) or (N, 2) at local contrasts (N,) to values (N,)."""
        calibrated = density[:, 0] * self._gain(contrast)
        return calibrated if self.sharp is None else np.maximum(calibrated, density[:, 1] * self.sharp)

    def matched(self, density: Values, contrast: Values) -> ExpectedDensity:
        """The same with the factor of the density of all frequencies, (N, 2) in healthy pixels, if there is one."""
        if density.shape[1] == 1:
            return self
        alone = replace(self, sharp=None).calibrated(density, contrast)
        return replace(self, sharp=float(np.quantile(alone, RARE) / np.quantile(density[:, 1], RARE)))

    def _gain(self, contrast: Values) -> Values:
        return (self.average / self.at(contrast)) ** self.strength


def leave_one_out(
    density: Sequence[Values],
    contrast: Sequence[Values],
    *,
    contrast_px: float,
    strength: float = 1.0,
    patients: Sequence[int] | None = None,
) -> tuple[ExpectedDensity, list[Values]]:
    """The expected density of all healthy scans, and each scan calibrated by that of the other people's.

    Args:
        density: for each scan its in-body density, (N, 1), nats per pixel; or (N, 2) with the one of all spatial
            frequencies second.
        contrast: for each scan the local contrast of the same pixels, (N,).
        contrast_px: the neighbourhood that the contrast was taken in, pixels.
        strength: see :class:`ExpectedDensity`.
        patients: number of the person that each scan is of; None if each is of another.

    Returns:
        The expected density, and for each scan its calibrated density (N,), which its person had no part in: a scan of
        a new healthy person is treated alike, so thresholds from these values hold for it.

    Raises:
        InputError: for scans of fewer than two people, or too few pixels.
    """
    of = list(range(len(density)) if patients is None else patients)
    if len(set(of)) < 2:
        raise InputError(
            f"healthy scans: got {len(of)} of {len(set(of))} people, expected 2 people or more; DICOM scans "
            "with one PatientID are of one person, so give each person an ID of its own"
        )
    sums = [ContrastSums.of(d[:, 0], c) for d, c in zip(density, contrast, strict=True)]
    step = -(-sum(map(len, contrast)) // _QUANTILE_PIXELS)
    thin = [(d[::step], c[::step]) for d, c in zip(density, contrast, strict=True)]

    def without(left_out: int | None) -> ExpectedDensity:
        rest = [i for i, patient in enumerate(of) if patient != left_out]
        total = sums[rest[0]]
        for i in rest[1:]:
            total = total + sums[i]
        alone = ExpectedDensity.fit(total, contrast_px=contrast_px, strength=strength)
        return alone.matched(*(np.concatenate(pixels) for pixels in zip(*(thin[i] for i in rest), strict=True)))

    others = {patient: without(patient) for patient in of}
    return without(None), [others[p].calibrated(d, c) for p, d, c in zip(of, density, contrast, strict=True)]
