"""Predictor-corrector sampling of the variance-exploding SDE with a measurement projection (Song et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser
from klip_monai.sampling.step import Callback, Step
from klip_monai.slice_generator import SliceGenerator


def predictor_corrector(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: torch.Tensor,
    x: torch.Tensor,
    *,
    sigmas: Sequence[float],
    generator: SliceGenerator,
    strength: float = 1.0,
    snr: float = 0.16,
    corrector_steps: int = 1,
    projection_iterations: int = 3,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Sample the posterior: reverse-diffusion predictor, Langevin corrector, projection onto the noised measurement.

    From sigma to sigma', with the score s = (D - x) / sigma^2 (Song et al., ICLR 2021, Algorithms 2 and 4):

    - predictor: x += (sigma^2 - sigma'^2) s + sqrt(sigma^2 - sigma'^2) n;
    - corrector, at sigma': x += e s + sqrt(2 e) n with e = 2 (snr ||n|| / ||s||)^2, with each slice's own norms;
    - projection (Song et al., ICLR 2022, eq. 8): x += strength A+ (y + sigma' A n - A x), A+ by conjugate gradients.

    What the projection does to the state is mostly an exchange of noise: the state's for the measurement's. Exchanged
    noise is diffusion, not drift, so it has no part in a path-space divergence (Girsanov); counted all the same, a
    thousand steps of it drown any lesion. What is left is that the projection undoes, in what was measured, the drift
    of the predictor towards D, (1 - sigma'^2 / sigma^2) (D - x), so D_y - D = A+ (y - A D).

    Not exact: the projection ignores the measurement's own noise. The KL sum of a Gaussian prior agrees with the closed
    form down to noise levels well above that of the measurement, and exceeds it below.

    Args:
        denoiser: the prior.
        operator: A, scaled to unit spectral norm.
        y: measurements (B, *range_shape).
        x: states at ``sigmas[0]``, float32 (B, 1, H, W).
        sigmas: descending noise levels, the last one positive; a final step goes to 0, without the measurement.
        generator: source of all randomness.
        strength: weight lambda of the projection, above 0 to 1.
        snr: signal-to-noise ratio r of the corrector.
        corrector_steps: Langevin steps a level.
        projection_iterations: conjugate-gradient steps of A+.
        callback: receives a :class:`Step` for each interval between two levels, with D at the upper one and D_y as
            said above.

    Returns:
        Posterior samples x0, float32 (B, 1, H, W), after 1 + ``corrector_steps`` passes a level.

    Raises:
        ValueError: if there are no noise levels.
    """
    if not sigmas:
        raise ValueError("sigmas: got none, expected at least one noise level")
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoiser(x, sigma)
        ratio = (sigma_next / sigma) ** 2
        x = denoised + ratio * (x - denoised) + sigma * (1 - ratio) ** 0.5 * generator.normal(x)
        for _ in range(corrector_steps):
            x = _langevin(denoiser, x, sigma_next, snr=snr, generator=generator)
        noise = sigma_next * generator.normal(x)
        x = x + strength * operator.A_dagger(y - operator.A(x - noise), iterations=projection_iterations)
        if callback is not None:
            drift = operator.A_dagger(y - operator.A(denoised), iterations=projection_iterations)
            callback(Step(sigma, sigma_next, denoised, denoised + drift))
    return denoiser(x, sigmas[-1])


def _langevin(
    denoiser: Denoiser, x: torch.Tensor, sigma: float, *, snr: float, generator: SliceGenerator
) -> torch.Tensor:
    """One corrector step, each slice with its own step size."""
    score = (denoiser(x, sigma) - x) / sigma**2
    noise = generator.normal(x)
    norms = [value.flatten(1).norm(dim=1)[:, None, None, None] for value in (noise, score)]
    step = 2 * (snr * norms[0] / norms[1].clamp_min(torch.finfo(x.dtype).tiny)) ** 2
    return x + step * score + (2 * step).sqrt() * noise
