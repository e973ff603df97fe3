"""One sampling pass read in several ways: which noise levels and spatial frequencies count, and how they are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser
from klip_monai.scoring import DensitySpectrum, Window
from klip_monai.slice_generator import SliceGenerator


@dataclass(frozen=True)
class Reading:
    """How a KL density becomes a map and a slice score.

    Attributes:
        window: (high, low) noise levels that count; None counts all that the sampler visited.
        lowpass_px: restricts the density to structures wider than this Gaussian, pixels; 0 counts all.
        smoothing_px: Gaussian smoothing of the density, pixels.
        statistic: slice score: "max", the highest in-body value of the smoothed map; "sum", the in-body sum of the
            density, which is the divergence of the whole slice.
        calibration: also give the map calibrated by what healthy tissue of the same local contrast scores, with this
            strength (see :class:`klip_monai.scoring.ExpectedDensity`); 0 does not.
        sharp: the calibrated map is the larger of this and the density of all spatial frequencies, see there.
        skin_px: rim of the body that the map leaves out, pixels.
    """

    window: tuple[float, float] | None = None
    lowpass_px: float = 0.0
    smoothing_px: float = 0.0
    statistic: Literal["max", "sum"] = "max"
    calibration: float = 0.0
    sharp: bool = False
    skin_px: float = 0.0


def ablation(window: tuple[float, float], *, lowpass_px: float, smoothing_px: float) -> dict[str, Reading]:
    """The paper's ablation: without a restriction, restricted in space, in noise level, and in both.

    Args:
        window: the restriction to noise levels.
        lowpass_px: with ``smoothing_px`` the restriction in space, which takes the place of the paper's blocks.
        smoothing_px: smoothing of the density, pixels.
    """
    return {
        "D_KL": Reading(statistic="sum"),
        "spatial": Reading(None, lowpass_px, smoothing_px),
        "temporal": Reading(window, statistic="sum"),
        "KLIP": Reading(window, lowpass_px, smoothing_px, calibration=1.0),
    }


class Readings:
    """KLIP as several readings of the same sampling pass.

    Args:
        inferer: how to sample. Its window says which levels ``renoised`` evaluates; what it restricts itself to in
            space does not matter.
        readings: by name.

    Raises:
        ValueError: for an inferer with twins, whose ratio is no sum over levels.
    """

    def __init__(self, inferer: KLIPInferer, readings: Mapping[str, Reading]) -> None:
        if inferer.twins.twins:
            raise ValueError(f"inferer: got {inferer.twins.twins} twins, expected none, to read it in several ways")
        self.inferer, self.readings = inferer, dict(readings)

    @property
    def passes(self) -> int:
        """NFE: network passes a slice, for all readings together."""
        return self.inferer.passes

    def describe(self) -> dict[str, Any]:
        """Settings of the sampling and of each reading, JSON-able."""
        return self.inferer.describe() | {"readings": {name: asdict(r) for name, r in self.readings.items()}}

    def densities(self, images: torch.Tensor, network: Denoiser) -> dict[str, torch.Tensor]:
        """The density of each reading, before smoothing.

        Args:
            images: standard slices in [-1, 1], float32 (B, 1, H, W).
            network: the prior.

        Returns:
            By name, float32 (B, 1, H, W), nats per pixel; (B, 2, H, W) with the density of all frequencies second for a
            reading that is sharp.
        """
        widths = {name: [reading.lowpass_px, *[0.0] * reading.sharp] for name, reading in self.readings.items()}
        lowpass = sorted({width for each in widths.values() for width in each})
        visited = self.inferer.estimation.range
        inside = [Window(*reading.window) for reading in self.readings.values() if reading.window is not None]
        edges = {visited.high, visited.low}
        edges |= {level for window in inside for level in (window.high, window.low)}
        spectrum, total = spectra(images, network, self.inferer, edges=sorted(edges, reverse=True), lowpass_px=lowpass)
        result = {}
        for name, reading in self.readings.items():
            bins = spectrum.bins(Window(*reading.window) if reading.window is not None else Window())
            result[name] = total[:, [lowpass.index(width) for width in widths[name]], bins].sum(dim=2).clamp_min(0)
        return result


def spectra(
    images: torch.Tensor,
    network: Denoiser,
    inferer: KLIPInferer,
    *,
    edges: Sequence[float],
    lowpass_px: Sequence[float],
) -> tuple[DensitySpectrum, torch.Tensor]:
    """One sampling pass by bins of noise level.

    Args:
        images: standard slices in [-1, 1], float32 (B, 1, H, W).
        network: the prior.
        inferer: how to sample.
        edges: descending noise levels.
        lowpass_px: low-passes, pixels.

    Returns:
        A spectrum that knows the bins, and densities float32 (B, L, K, H, W) on the CPU, nats per pixel.
    """
    draws = inferer.estimation.reported

    def bins_of(batch: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
        spectrum = DensitySpectrum(edges, lowpass_px=lowpass_px, noise_px=inferer.reading.noise_px)
        inferer.density(batch, network, generator=generator, tap=spectrum)
        return spectrum.densities(samples=inferer.sampling.samples, draws=draws).cpu()

    found = torch.zeros(len(images), len(lowpass_px), len(edges) - 1, *images.shape[2:])
    with inferer.batches(images, bins_of) as each:
        for members, densities in each:
            found[members] = densities
    return DensitySpectrum(edges, lowpass_px=lowpass_px), found
