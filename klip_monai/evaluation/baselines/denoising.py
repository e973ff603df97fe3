"""How badly the prior denoises a slice whose clean values are known: its error in a window, and the diffusion ELBO."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klip_monai.evaluation.baselines.slice_method import Level, SliceMethod, check_level
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.prior.within_body import InBoxes, boxes_of
from klip_monai.sampling import renoise
from klip_monai.scoring import KLAccumulator
from klip_monai.slice_generator import SliceGenerator

_ROWS = 16  # noisy slices that pass the network together


@dataclass(frozen=True, kw_only=True)
class DenoisingError(SliceMethod):
    """Squared error of the denoised slice, over a window of noise levels.

    1/2 sum_k (1/sigma_{k+1}^2 - 1/sigma_k^2) E ||x - D(x + sigma n, sigma)||^2, per pixel: the continuous-time loss of
    Kingma et al. 2021 (Variational Diffusion Models, section 4), restricted to a window. It is what KLIP becomes where
    the measurement leaves nothing open (A = I, no noise), since the posterior denoiser then returns x.

    Attributes:
        window: (high, low) noise levels, in units of the [-1, 1] image.
        window_levels: intervals that the window is divided into.
        draws: passes over the window's levels, averaged.
        lowpass_px: restricts the error to structures wider than this Gaussian, pixels; 0 counts all. See
            :class:`klip_monai.scoring.KLAccumulator`.

    The result is a map (B, 1, H, W), nats per pixel.
    """

    window: tuple[float, float] = (1.0, 0.085)
    window_levels: int = 15
    draws: int = 1
    lowpass_px: float = 0.0

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return self.window_levels * self.draws

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        high, low = self.window
        sigmas = log_sigmas(self.window_levels + 1, sigma_max=high, sigma_min=low).tolist()
        return _weighted_error(images, network, generator, sigmas=sigmas, draws=self.draws, lowpass_px=self.lowpass_px)


@dataclass(frozen=True, kw_only=True)
class NegativeELBO(SliceMethod):
    """Upper bound of -log p(x) by the diffusion ELBO, in nats (Ho et al. 2020, eq. 5; Kingma et al. 2021, section 4).

    The sum of three terms: the diffusion loss, 1/2 integral of E ||x - D||^2 d(1/sigma^2) over all levels; the prior's,
    KL(N(x, sigma_max^2) || N(0, sigma_max^2 + s^2)); the reconstruction's, -E log N(x; D(x + sigma_min n), r^2), with
    r^2 = sigma_min^2 s^2 / (sigma_min^2 + s^2) and s = ``data_std``. For a white Gaussian prior of standard deviation s
    and zero mean the bound is exact.

    Attributes:
        level: "pixel" gives a map (B, 1, H, W), nats per pixel; "slice" its sums (B,), nats.
        levels: intervals of ln(sigma).
        draws: passes over the levels, averaged.
        sigma_max: highest noise level, which hides everything; one that the prior was trained for.
        sigma_min: lowest noise level, of the decoder.
        data_std: standard deviation s of the slices in [-1, 1].
    """

    level: Level = "pixel"
    levels: int = 40
    draws: int = 1
    sigma_max: float = 10.0
    sigma_min: float = 0.02
    data_std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_level(self.level)

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return (self.levels + 1) * self.draws

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        sigmas = log_sigmas(self.levels + 1, sigma_max=self.sigma_max, sigma_min=self.sigma_min).tolist()
        diffusion = _weighted_error(images, network, generator, sigmas=sigmas, draws=self.draws)
        bound = diffusion + self._prior_term(images) + self._reconstruction_term(images, network, generator)
        return bound if self.level == "pixel" else bound.double().sum(dim=(1, 2, 3)).float()

    def _prior_term(self, images: torch.Tensor) -> torch.Tensor:
        """KL(N(x, sigma_max^2) || N(0, sigma_max^2 + s^2)), nats per pixel."""
        marginal = self.sigma_max**2 + self.data_std**2
        ratio = self.sigma_max**2 / marginal
        return 0.5 * (ratio - 1 - math.log(ratio) + images.square() / marginal)

    def _reconstruction_term(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        """-E log N(x; D(x + sigma_min n), r^2), nats per pixel."""
        variance = self.sigma_min**2 * self.data_std**2 / (self.sigma_min**2 + self.data_std**2)
        error = torch.zeros_like(images)
        for _ in range(self.draws):
            noisy = images + self.sigma_min * generator.normal(images)
            error += (images - network(noisy, self.sigma_min)).square() / self.draws
        return 0.5 * (math.log(2 * math.pi * variance) + error / variance)


def _weighted_error(
    images: torch.Tensor,
    network: Denoiser,
    generator: SliceGenerator,
    *,
    sigmas: list[float],
    draws: int,
    lowpass_px: float = 0.0,
) -> torch.Tensor:
    """The KL density of a posterior that knows the slice: its denoiser returns x, whatever the noise."""
    in_parts = InBoxes(network, boxes_of(images, network, margin_px=None), rows=_ROWS)

    def known(x: torch.Tensor, sigma: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return in_parts(x, sigma), images.repeat_interleave(len(x) // len(images), dim=0)

    accumulator = KLAccumulator(lowpass_px=lowpass_px)
    for _ in range(draws):
        renoise(known, images, sigmas=sigmas, generator=generator, callback=accumulator)
    return accumulator.density(draws=draws)
