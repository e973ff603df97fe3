"""What every sampler reports, and the posterior denoiser they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch

from klip_monai.physics import LinearOperator
from klip_monai.physics.solvers import conjugate_gradient
from klip_monai.prior import Denoiser


@dataclass(frozen=True)
class Step:
    """An interval of noise levels of a reverse process, and what the denoisers gave within it.

    Attributes:
        sigma: upper end of the interval.
        sigma_next: lower end.
        denoised_prior: D(x, s) at a level s within the interval (which one is the sampler's choice), float32
            (B, 1, H, W).
        denoised_posterior: D_y(x, s), same shape.
        sample: the posterior sample that x is a noised copy of, same shape: its mean given x is D_y too. None if there
            is none, or if it is not to count.
        noise: the noise n of that copy, x = sample + s n, same shape; None if x is no such copy.
    """

    sigma: float
    sigma_next: float
    denoised_prior: torch.Tensor
    denoised_posterior: torch.Tensor
    sample: torch.Tensor | None = None
    noise: torch.Tensor | None = None


Callback = Callable[[Step], None]


def level_intervals(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """The interval of noise levels that each level stands for, which makes the KL sum's error second order in spacing.

    Args:
        sigmas: descending noise levels.

    Returns:
        (upper, lower) of each level: the geometric middles to its neighbours; the first one's begins, and the last
        one's ends, at the level itself. Together they tile the range of the levels.
    """
    return list(pairwise([*sigmas[:1], *((a * b) ** 0.5 for a, b in pairwise(sigmas)), *sigmas[-1:]]))


def split_interval(upper: float, lower: float, *, parts: int) -> list[tuple[float, float]]:
    """Cut an interval of noise levels into parts of equal gain in 1/sigma^2, which weigh the same in the KL sum.

    A sampler that visits a level several times reports one part for each visit: their sum is then the visits' mean.

    Args:
        upper: upper end.
        lower: lower end, > 0.
        parts: number of parts.

    Returns:
        (upper, lower) of each part, descending; they tile the interval.
    """
    gain = (lower**-2 - upper**-2) / parts
    inner = [(upper**-2 + gain * part) ** -0.5 for part in range(1, parts)]
    return list(pairwise([upper, *inner, lower]))


class PosteriorDenoiser(Protocol):
    """Anything that turns (x, sigma) into (D(x, sigma), D_y(x, sigma))."""

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Denoise ``x`` without and with the measurement.

        Args:
            x: states (B, 1, H, W), or (B * R, 1, H, W): R states of each measured slice side by side.
            sigma: their noise level, or one for each.
        """
        ...


class ConjugateGradientPosterior:
    """Posterior denoiser by a few conjugate-gradient steps, without back-propagation through the network.

    D_y minimises ||A z - y||^2 / sy^2 + ||z - D||^2 / r^2 with r^2 = sigma^2 s^2 / (sigma^2 + s^2): the posterior mean
    if x0 given x_sigma were Gaussian around D with variance r^2 (Song et al. 2023, pseudo-inverse guidance; Chung et
    al. 2024, decomposed diffusion sampling). Exact for a white Gaussian prior of variance s^2 and enough iterations.
    With W = diag(1 / sy^2), where each measurement may have a sy of its own, the move d = D_y - D solves
    (I + r^2 A^T W A) d = r^2 A^T W (y - A D).

    Args:
        denoiser: the prior.
        operator: A, scaled to unit spectral norm.
        y: measurement (B, *range_shape).
        noise_std: sy, in units of y: one number, or a tensor broadcastable to y, above 0 everywhere.
        data_std: s, standard deviation of the data about its mean.
        iterations: conjugate-gradient steps.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        operator: LinearOperator,
        y: torch.Tensor,
        *,
        noise_std: float | torch.Tensor,
        data_std: float = 0.5,
        iterations: int = 5,
    ) -> None:
        lowest = float(noise_std.min()) if isinstance(noise_std, torch.Tensor) else noise_std
        if not lowest > 0:
            raise ValueError(f"noise_std: got {lowest}, expected a positive standard deviation of the measurement")
        self.denoiser, self.operator, self.y = denoiser, operator, y
        self.noise_std, self.data_std, self.iterations = noise_std, data_std, iterations

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (D, D_y), each float32, of the shape of ``x``; see :class:`PosteriorDenoiser`."""
        a, prior = self.operator, self.denoiser(x, sigma)
        level = sigma[:, None, None, None] if isinstance(sigma, torch.Tensor) else sigma
        variance = level**2 * self.data_std**2 / (level**2 + self.data_std**2)
        y, weight = self._for_each(self.y, len(x)), self.noise_std
        if not isinstance(weight, torch.Tensor):  # one weight for all is cheaper to apply to the image
            gamma = variance / weight**2
            residual = gamma * a.A_adjoint(y - a.A(prior))
            if a.orthonormal and self.iterations:
                return prior, prior + residual / (1 + gamma)
            return prior, prior + self._solve(lambda d: gamma * a.A_adjoint(a.A(d)), residual)
        precision = self._for_each(weight.expand_as(self.y), len(x)) ** -2
        residual = variance * a.A_adjoint(precision * (y - a.A(prior)))
        return prior, prior + self._solve(lambda d: variance * a.A_adjoint(precision * a.A(d)), residual)

    def _solve(self, weighted_normal: Callable[[torch.Tensor], torch.Tensor], residual: torch.Tensor) -> torch.Tensor:
        return conjugate_gradient(lambda d: d + weighted_normal(d), residual, iterations=self.iterations)

    def _for_each(self, measured: torch.Tensor, states: int) -> torch.Tensor:
        """What was measured of B slices, once for each of their states."""
        repeats = states // len(self.y)
        return measured if repeats == 1 else measured.repeat_interleave(repeats, dim=0)
