"""Annealed Langevin dynamics with a data step through the network: the sampler of PaDIS (Hu et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser, PatchDenoiser
from klip_monai.sampling.guidance import misfit_gradient, residual_norm
from klip_monai.sampling.step import Callback, Step, level_intervals, split_interval
from klip_monai.slice_generator import SliceGenerator


class DataEnergy(Protocol):
    """What the residual costs: the data step is u = -grad_x of it."""

    def __call__(self, residual: torch.Tensor, *, sigma: float, alpha: float) -> torch.Tensor:
        """Cost of each slice.

        Args:
            residual: y - A D(x, sigma), (B, *range_shape).
            sigma: noise level.
            alpha: size of the Langevin step, epsilon sigma^2.

        Returns:
            (B,).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class NormEnergy:
    """zeta ||y - A D||: diffusion posterior sampling (Chung et al., ICLR 2023) as PaDIS uses it.

    Its step knows neither the noise of the measurement nor how sure the prior is: ||D_y - D|| is at most
    2 zeta / epsilon for a whole slice, at every noise level. At high levels, where the measurement tells much, that is
    too little and the KL density too low; towards sigma = 0, where D_y - D should vanish as sigma^2, it is too much,
    the density grows without bound, and samples follow the measurement into its noise. Where one turns into the other
    depends on zeta, which has to grow with the size of slices: read the density as a score in a window, not as nats.

    Attributes:
        zeta: step size. 1 reconstructs slices of 128 x 128 from 24 views in 100 levels of 10 steps; fewer steps need
            more. (PaDIS has 0.3, for images in [0, 1] and an A that is not scaled to unit norm.)
    """

    zeta: float = 1.0

    def __call__(self, residual: torch.Tensor, *, sigma: float, alpha: float) -> torch.Tensor:
        """See `DataEnergy`."""
        return self.zeta * residual_norm(residual)


@dataclass(frozen=True, kw_only=True)
class GaussianEnergy:
    """alpha/4 ||y - A D||^2 / (sy^2 + r^2): the likelihood of y given x_sigma if x0 were Gaussian around D.

    The variance r^2 = sigma^2 s^2 / (sigma^2 + s^2) of x0 is that of `ConjugateGradientPosterior`; here A spreads it as
    the identity would (A has unit spectral norm), which makes the step exact for the identity and a white Gaussian
    prior, and too small for any other A: samples are then too wide, and the KL density too low.

    Attributes:
        noise_std: sy, in units of y.
        data_std: s, standard deviation of the data about its mean.
    """

    noise_std: float
    data_std: float = 0.5

    def __call__(self, residual: torch.Tensor, *, sigma: float, alpha: float) -> torch.Tensor:
        """See `DataEnergy`."""
        variance = sigma**2 * self.data_std**2 / (sigma**2 + self.data_std**2) + self.noise_std**2
        return alpha / (4 * variance) * residual.square().flatten(1).sum(dim=1)


def patch_langevin(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: torch.Tensor,
    x: torch.Tensor,
    *,
    sigmas: Sequence[float],
    generator: SliceGenerator,
    energy: DataEnergy | None = None,
    steps: int = 10,
    epsilon: float = 1.0,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Run annealed Langevin dynamics with a measurement.

    At each noise level, ``steps`` times: x <- x + alpha/2 (D - x)/sigma^2 + sqrt(alpha) n + u with alpha = epsilon
    sigma^2 and the data step u = -grad_x energy(y - A D(x, sigma)). Langevin dynamics of the posterior has the drift
    alpha/2 (prior score + likelihood score), so u stands for the likelihood score u / (alpha/2), and with
    D_y - D = sigma^2 times it, D_y = D + 2 u / epsilon.

    With a `PatchDenoiser` each step has its own random partition into patches (PaDIS); any other differentiable
    denoiser works too. Finite steps widen the samples: for a white Gaussian of variance v at sigma without data the
    stationary variance is v / (1 - epsilon sigma^2 / (4 v)), a third too much at epsilon = 1 where the noise outweighs
    the data, and right where sigma is small. For the bias of the data step see the energies.

    Args:
        denoiser: the prior, differentiable in x.
        operator: A.
        y: measurement (B, *range_shape).
        x: state at ``sigmas[0]``, float32 (B, 1, H, W).
        sigmas: descending noise levels, the last one positive; PaDIS has 100.
        generator: source of all randomness, the partitions included.
        energy: cost of the residual; None is `NormEnergy`, as in PaDIS.
        steps: Langevin steps at each level.
        epsilon: step size relative to sigma^2; PaDIS has 0.5 to 1, and from 4 on the dynamics diverge.
        callback: receives a :class:`Step` for each Langevin step: an equal share, in 1/sigma^2, of the interval that
            its level stands for (`level_intervals`), so that the KL sum counts a level once, averaged over its steps.

    Returns:
        Posterior sample x0, float32 (B, 1, H, W): D of the last state.

    Raises:
        ValueError: if there are no noise levels, no steps, or epsilon is outside its range.
    """
    if not sigmas or steps < 1 or not 0 < epsilon < 4:
        raise ValueError(
            f"sigmas, steps, epsilon: got {len(sigmas)} levels, {steps} and {epsilon}, expected at least one level and "
            "step, and 0 < epsilon < 4"
        )
    energy = energy or NormEnergy()
    denoise = denoiser.on_random_grids(generator) if isinstance(denoiser, PatchDenoiser) else denoiser
    for sigma, (upper, lower) in zip(sigmas, level_intervals(sigmas), strict=True):
        alpha = epsilon * sigma**2
        cost = partial(energy, sigma=sigma, alpha=alpha)
        for part_upper, part_lower in split_interval(upper, lower, parts=steps):
            denoised, gradient = misfit_gradient(denoise, operator, y, x, sigma, cost=cost)
            if callback is not None and part_lower < part_upper:
                callback(Step(part_upper, part_lower, denoised, denoised - 2 / epsilon * gradient))
            x = x + epsilon / 2 * (denoised - x) + alpha**0.5 * generator.normal(x) - gradient
    with torch.no_grad():
        return denoise(x, sigmas[-1])
