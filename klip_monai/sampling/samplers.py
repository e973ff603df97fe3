"""Posterior samplers: functions of (posterior denoiser, x, sigmas) that report every step to a callback."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from klip_monai.prior import Denoiser
from klip_monai.sampling.step import Callback, PosteriorDenoiser, Step, level_intervals
from klip_monai.slice_generator import SliceGenerator

_LEVELS = 8  # evaluated together: more would not fit the caches of a core


def posterior_sample(
    posterior: PosteriorDenoiser,
    x: torch.Tensor,
    *,
    sigmas: Sequence[float],
    generator: SliceGenerator,
    churn: float = 1.0,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Run the reverse process with the measurement (decomposed diffusion sampling, Chung et al. 2024).

    From sigma to sigma' the state becomes D_y + sigma' (sqrt(1 - eta^2) (x - D_y) / sigma + eta n): DDIM for eta = 0,
    fully re-noised for eta = 1, with eta = ``churn`` * sqrt(1 - sigma'^2 / sigma^2) (ancestral at churn 1).

    Args:
        posterior: (x, sigma) to (D, D_y).
        x: state at ``sigmas[0]``, float32 (B, 1, H, W).
        sigmas: descending noise levels, the last one positive; a final step goes to 0.
        generator: source of all randomness, with B slices.
        churn: amount of fresh noise, 0 to 1.
        callback: receives a :class:`Step` for each level, standing for its interval of `level_intervals`.

    Returns:
        Posterior sample x0, float32 (B, 1, H, W).

    Raises:
        ValueError: if there are no noise levels.
    """
    for (sigma, sigma_next), (upper, lower) in zip(pairwise([*sigmas, 0.0]), level_intervals(sigmas), strict=True):
        denoised, denoised_posterior = posterior(x, sigma)
        if callback is not None and lower < upper:
            callback(Step(upper, lower, denoised, denoised_posterior))
        if sigma_next == 0:
            return denoised_posterior
        eta = churn * (1 - (sigma_next / sigma) ** 2) ** 0.5
        direction = (x - denoised_posterior) / sigma
        x = denoised_posterior + sigma_next * ((1 - eta**2) ** 0.5 * direction + eta * generator.normal(x))
    raise ValueError("sigmas: got none, expected at least one noise level")


def prior_sample(
    denoiser: Denoiser, x: torch.Tensor, *, sigmas: Sequence[float], generator: SliceGenerator, churn: float = 1.0
) -> torch.Tensor:
    """Run the reverse process without a measurement; arguments and result as in :func:`posterior_sample`."""

    def unmeasured(x: torch.Tensor, sigma: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = denoiser(x, sigma)
        return denoised, denoised

    return posterior_sample(unmeasured, x, sigmas=sigmas, generator=generator, churn=churn)


def renoise(
    posterior: PosteriorDenoiser,
    x0: torch.Tensor,
    *,
    sigmas: Sequence[float],
    generator: SliceGenerator,
    callback: Callback,
    crossed: bool = False,
) -> None:
    """Evaluate the window's noise levels on fresh draws x0 + sigma n, independent of each other, several at once.

    If x0 is a posterior sample, x0 + sigma n is exactly a draw from the noisy posterior at sigma, so the expectation of
    the KL sum needs only the window's levels.

    Args:
        posterior: (x, sigma) to (D, D_y).
        x0: posterior samples, float32 (B, 1, H, W).
        sigmas: K + 1 descending levels: the edges of K intervals, each evaluated at its geometric middle.
        generator: source of all randomness, with B slices.
        callback: receives a :class:`Step` for each interval.
        crossed: whether steps bring x0 along, as a second estimate of D_y.
    """
    intervals = list(pairwise(sigmas))
    for first in range(0, len(intervals), _LEVELS):
        part = intervals[first : first + _LEVELS]
        middles = x0.new_tensor([(upper * lower) ** 0.5 for upper, lower in part])
        noise = torch.stack([generator.normal(x0) for _ in part], dim=1)
        x = x0[:, None] + middles[:, None, None, None] * noise
        both = posterior(x.flatten(0, 1), middles.repeat(len(x0)))
        denoised, denoised_posterior = (each.unflatten(0, (len(x0), len(part))) for each in both)
        for k, interval in enumerate(part):
            sample = x0 if crossed else None
            callback(Step(*interval, denoised[:, k], denoised_posterior[:, k], sample, noise[:, k]))
