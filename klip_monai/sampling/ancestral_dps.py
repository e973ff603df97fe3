"""Ancestral sampling of a variance-preserving model with DPS (Chung et al. 2023), and its DDIM form."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser
from klip_monai.sampling.guidance import misfit_gradient
from klip_monai.sampling.step import Callback, Step
from klip_monai.slice_generator import SliceGenerator


def ddpm_dps(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: torch.Tensor,
    x: torch.Tensor,
    *,
    sigmas: Sequence[float],
    generator: SliceGenerator,
    strength: float = 1.0,
    churn: float = 1.0,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Sample the posterior by ancestral DDPM steps, each followed by a step down the data misfit.

    The chain of the paper in the coordinates of this package: its state is x_sigma / sqrt(1 + sigma^2) at cumulative
    alpha 1 / (1 + sigma^2), so its step of ``strength`` along the gradient of ||y - A D|| becomes
    u = -strength sqrt((1 + sigma^2) (1 + sigma'^2)) times the gradient by x_sigma.

    Biased: DPS takes the likelihood of D(x) for that of x, with steps whose length is tuned, not derived, and stays the
    same however well the measurement is met. So neither samples nor KL sum agree with the closed form of a Gaussian
    prior; the sum exceeds it, most at low noise levels.

    Args:
        denoiser: the prior, any :class:`klip_monai.prior.Denoiser` that can be differentiated.
        operator: A, scaled to unit spectral norm.
        y: measurements (B, *range_shape).
        x: states at ``sigmas[0]``, float32 (B, 1, H, W).
        sigmas: descending noise levels, the last one positive; a final step goes to 0, without the measurement.
        generator: source of all randomness, with B slices.
        strength: zeta of the paper.
        churn: 1 is ancestral (DDPM), 0 is DDIM; see :func:`posterior_sample`.
        callback: receives a :class:`Step` for each interval between two levels. The step's mean moves by
            u = (1 - c) (D_y - D) with c the weight that the step gives to the state (sigma'^2 / sigma^2 if ancestral),
            which defines D_y; the KL sum is then, for churn 1, that of the ancestral kernels (chain rule).

    Returns:
        Posterior samples x0, float32 (B, 1, H, W). Passes of the network: one each level and, for the gradient, about
        two more.

    Raises:
        ValueError: if there are no noise levels.
    """
    if not sigmas:
        raise ValueError("sigmas: got none, expected at least one noise level")
    for sigma, sigma_next in pairwise(sigmas):
        denoised, gradient = misfit_gradient(denoiser, operator, y, x, sigma)
        eta = churn * (1 - (sigma_next / sigma) ** 2) ** 0.5
        keep = sigma_next / sigma * (1 - eta**2) ** 0.5
        move = -strength * ((1 + sigma**2) * (1 + sigma_next**2)) ** 0.5 * gradient
        x = denoised + keep * (x - denoised) + sigma_next * eta * generator.normal(x) + move
        if callback is not None:
            callback(Step(sigma, sigma_next, denoised, denoised + move / (1 - keep)))
    return denoiser(x, sigmas[-1])
