"""Closed forms for a white Gaussian prior: posterior and its KL divergence from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klip_monai.physics import Identity, LinearOperator
from klip_monai.prior import GaussianDenoiser
from klip_monai.sampling import ConjugateGradientPosterior
from klip_monai.slice_generator import SliceGenerator


@dataclass(frozen=True)
class GaussianCase:
    """Prior N(0, std^2 I), y = A x + N(0, noise_std^2 I) and the exact posterior N(mean, covariance), float64."""

    operator: LinearOperator
    std: float
    noise_std: float
    y: torch.Tensor
    mean: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def draw(cls, operator: LinearOperator, *, std: float, noise_std: float, seed: int = 0) -> GaussianCase:
        """Draw an image from the prior and measure it."""
        generator = torch.Generator().manual_seed(seed)
        x = std * torch.randn(1, 1, *operator.image_shape, generator=generator, dtype=torch.float64)
        y = operator.A(x)
        y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=torch.float64)
        n = x.numel()
        matrix = operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *x.shape[1:])).flatten(1).T
        covariance = torch.linalg.inv(matrix.T @ matrix / noise_std**2 + torch.eye(n, dtype=torch.float64) / std**2)
        mean = covariance @ matrix.T @ y.flatten() / noise_std**2
        return cls(operator, std, noise_std, y, mean, covariance)

    @property
    def kl(self) -> float:
        """KL(N(mean, covariance) || N(0, std^2 I)) in nats."""
        variance, n = self.std**2, len(self.mean)
        moments = (torch.trace(self.covariance) + self.mean @ self.mean) / variance
        return float(0.5 * (moments - n - torch.logdet(self.covariance / variance)))

    def posterior(self, batch: int, *, iterations: int = 12) -> ConjugateGradientPosterior:
        """The exact posterior denoiser, for ``batch`` copies of the measurement."""
        return ConjugateGradientPosterior(
            GaussianDenoiser(std=self.std),
            self.operator,
            self.y.float().expand(batch, *self.operator.range_shape).contiguous(),
            noise_std=self.noise_std,
            data_std=self.std,
            iterations=2 if isinstance(self.operator, Identity) else iterations,
        )

    def samples(self, batch: int, generator: SliceGenerator) -> torch.Tensor:
        """Exact posterior samples, float32 (batch, 1, H, W)."""
        white = generator.normal(torch.empty(batch, len(self.mean), dtype=torch.float64))
        x0 = self.mean + white @ torch.linalg.cholesky(self.covariance).T
        return x0.float().reshape(batch, 1, *self.operator.image_shape)

    def start(self, batch: int, sigma: float, generator: SliceGenerator) -> torch.Tensor:
        """States at a noise level far above the prior: white noise, float32 (batch, 1, H, W)."""
        return sigma * generator.normal(torch.empty(batch, 1, *self.operator.image_shape))


def relative_excess(levels: int, *, sigma_max: float, sigma_min: float) -> float:
    """Relative excess of the KL sum over log-spaced levels, each interval evaluated at its geometric middle.

    For a step h in ln(sigma) the weight 1/2 (1/sigma'^2 - 1/sigma^2) is sinh(h) / middle^2; the exact integrand's is
    h / middle^2.
    """
    step = math.log(sigma_max / sigma_min) / (levels - 1)
    return math.sinh(step) / step - 1
