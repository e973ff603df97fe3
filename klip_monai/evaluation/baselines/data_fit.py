"""What of the measurement a posterior sample does not explain."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klip_monai.evaluation.baselines.slice_method import SliceMethod
from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.sampling import ConjugateGradientPosterior, posterior_sample
from klip_monai.slice_generator import SliceGenerator


@dataclass(frozen=True, kw_only=True)
class DataFitResidual(SliceMethod):
    """Back-projected residual |A^T (A x0 - y)| of a posterior sample x0 (decomposed diffusion sampling, Chung 2024).

    The same measurement and sampler as :class:`klip_monai.inferer.KLIPInferer`; the arguments mean the same. Where
    prior and data disagree, the sample may leave the data unexplained; the steps on the data make it explain most.

    Attributes:
        operator: A, scaled to unit spectral norm.
        sampler_levels: noise levels of the sampler, log-spaced.
        sigma_max: the sampler starts from the least-squares image plus noise of this level.
        sigma_min: lowest noise level.
        churn: fresh noise in the sampler, 0 (DDIM) to 1 (ancestral).
        noise_std: standard deviation of the measurement noise, in units of y.
        data_std: standard deviation assumed by the posterior denoiser.
        cg_iterations: conjugate-gradient steps per posterior denoising.

    The result is a map (B, 1, H, W), in units of the [-1, 1] image.
    """

    operator: LinearOperator
    sampler_levels: int = 40
    sigma_max: float = 3.0
    sigma_min: float = 0.02
    churn: float = 1.0
    noise_std: float = 0.003
    data_std: float = 0.5
    cg_iterations: int = 5

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return self.sampler_levels

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        a, sigmas = self.operator, log_sigmas(self.sampler_levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min)
        y = a.A(images)
        y = y + self.noise_std * generator.normal(y)
        posterior = ConjugateGradientPosterior(
            network, a, y, noise_std=self.noise_std, data_std=self.data_std, iterations=self.cg_iterations
        )
        start = a.A_dagger(y, iterations=self.cg_iterations)
        start = start + self.sigma_max * generator.normal(start)
        x0 = posterior_sample(posterior, start, sigmas=sigmas.tolist(), generator=generator, churn=self.churn)
        return a.A_adjoint(a.A(x0) - y).abs()
