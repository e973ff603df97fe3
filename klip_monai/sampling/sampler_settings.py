"""The samplers of the paper as values: what they are run with, what that costs, and how it is written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.sampling.ancestral_dps import ddpm_dps
from klip_monai.sampling.patch_langevin import NormEnergy, patch_langevin
from klip_monai.sampling.predictor_corrector import predictor_corrector
from klip_monai.sampling.step import Callback
from klip_monai.slice_generator import SliceGenerator


@dataclass(frozen=True, kw_only=True)
class PosteriorSampler(ABC):
    """A sampler with its settings.

    Attributes:
        levels: noise levels, log-spaced.
        sigma_max: the highest; the state begins as the least-squares image with noise of this level.
        sigma_min: the lowest.
    """

    levels: int
    sigma_max: float = 20.0
    sigma_min: float = 0.02

    @property
    @abstractmethod
    def passes(self) -> int:
        """NFE of a sample: passes of the network, a backward pass counted as two."""

    @property
    @abstractmethod
    def function(self) -> Callable[..., torch.Tensor]:
        """The sampler that it is named after, with its own settings filled in."""

    def sample(
        self,
        denoiser: Denoiser,
        operator: LinearOperator,
        y: torch.Tensor,
        start: torch.Tensor,
        *,
        generator: SliceGenerator,
        callback: Callback | None = None,
    ) -> torch.Tensor:
        """Draw posterior samples.

        Args:
            denoiser: the prior.
            operator: A, scaled to unit spectral norm.
            y: measurements (B, *range_shape).
            start: least-squares images, float32 (B, 1, H, W).
            generator: source of all randomness, with B slices.
            callback: receives every step.

        Returns:
            Posterior samples x0, float32 (B, 1, H, W).
        """
        sigmas = log_sigmas(self.levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min).tolist()
        x = start + self.sigma_max * generator.normal(start)
        return self.function(denoiser, operator, y, x, sigmas=sigmas, generator=generator, callback=callback)

    def describe(self) -> dict[str, Any]:
        """Name and settings, JSON-able."""
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(PosteriorSampler):
    """:func:`klip_monai.sampling.predictor_corrector`; the paper's for whole slices, with 1000 levels and 8 samples.

    Attributes:
        strength, snr, corrector_steps, projection_iterations: see there.
    """

    levels: int = 1000
    strength: float = 1.0
    snr: float = 0.16
    corrector_steps: int = 1
    projection_iterations: int = 3

    @property
    def passes(self) -> int:
        """See `PosteriorSampler`."""
        return (self.levels - 1) * (1 + self.corrector_steps) + 1

    @property
    def function(self) -> Callable[..., torch.Tensor]:
        """See `PosteriorSampler`."""
        return partial(
            predictor_corrector,
            strength=self.strength,
            snr=self.snr,
            corrector_steps=self.corrector_steps,
            projection_iterations=self.projection_iterations,
        )


@dataclass(frozen=True, kw_only=True)
class AncestralDPS(PosteriorSampler):
    """:func:`klip_monai.sampling.ddpm_dps`; the paper's for a DDPM.

    Attributes:
        strength, churn: see there.
    """

    levels: int = 200
    strength: float = 1.0
    churn: float = 1.0

    @property
    def passes(self) -> int:
        """See `PosteriorSampler`."""
        return (self.levels - 1) * 3 + 1

    @property
    def function(self) -> Callable[..., torch.Tensor]:
        """See `PosteriorSampler`."""
        return partial(ddpm_dps, strength=self.strength, churn=self.churn)


@dataclass(frozen=True, kw_only=True)
class PatchLangevin(PosteriorSampler):
    """:func:`klip_monai.sampling.patch_langevin`; the paper's for a patch prior, with 100 levels of 10 steps.

    Attributes:
        steps, epsilon: see there.
        zeta: of :class:`klip_monai.sampling.NormEnergy`.
    """

    levels: int = 100
    steps: int = 10
    epsilon: float = 1.0
    zeta: float = 1.0

    @property
    def passes(self) -> int:
        """See `PosteriorSampler`."""
        return self.levels * self.steps * 3 + 1

    @property
    def function(self) -> Callable[..., torch.Tensor]:
        """See `PosteriorSampler`."""
        return partial(patch_langevin, energy=NormEnergy(zeta=self.zeta), steps=self.steps, epsilon=self.epsilon)


SAMPLERS: Mapping[str, Callable[..., PosteriorSampler]] = MappingProxyType(
    {"predictor_corrector": PredictorCorrector, "ancestral_dps": AncestralDPS, "patch_langevin": PatchLangevin}
)
"""Makers of the paper's samplers by name; all settings have defaults."""
