"""The KL density: how many nats the measurement moves each pixel off the prior.

Restricted to a window of noise levels and, optionally, to low spatial frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from monai.networks.layers import gaussian_1d
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

if TYPE_CHECKING:
    from klip_monai.sampling import Step

_LEAST = 1e-12
_CACHED = 1 << 16  # values that a core passes over time and again at no cost of memory


@dataclass(frozen=True)
class Window:
    """A range of noise levels, ``low`` <= sigma <= ``high``, in units of the [-1, 1] image; by default all of them."""

    high: float = float("inf")
    low: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"window: got high {self.high} and low {self.low}, expected 0 <= low < high")

    def weight(self, sigma: float, sigma_next: float) -> float:
        """Half the gain in signal-to-noise ratio from ``sigma`` down to ``sigma_next``, inside the window only."""
        upper, lower = min(sigma, self.high), max(sigma_next, self.low)
        return 0.5 * (lower**-2 - upper**-2) if lower < upper else 0.0


class KLAccumulator:
    """Sums the KL density of the steps it is called with, slice by slice; memory does not grow with steps.

    KL(p(x|y) || p(x)) = 1/2 sum_k (1/sigma_{k+1}^2 - 1/sigma_k^2) E ||D_y - D||^2 over pixels (path-space divergence of
    the posterior and prior reverse processes; Kheirandish et al., KLIP, CVPR 2026), restricted to a window and kept per
    pixel. Steps that straddle an edge of the window count with the part inside.

    With ``lowpass_px`` it takes ||G (D_y - D)||^2 for a Gaussian G: by Parseval the sum over pixels is then that of
    |G(f)|^2 |FT(D_y - D)(f)|^2 over spatial frequencies f, the part of the divergence that structures wider than G
    carry. Noise grain, which the measurement reveals in healthy tissue too, changes sign from pixel to pixel and drops
    out; a lesion does not. (Samples are never averaged before squaring.) The third direction is that of
    :class:`klip_monai.scoring.Moves`.

    Steps that bring the posterior sample x0 along count with (x0 - D) (D_y - D) instead of the square. In expectation
    it is the same, for D_y is the mean of x0 given x and y. But the posterior denoiser D_y is an approximation that,
    after few views, spreads what the measurement says along the rays: streaks far from a lesion. What x0 does not share
    changes sign from draw to draw and drops out.

    Much of a move is the denoiser taking coarse parts of the noise n for anatomy, so where a density of few draws is
    high is a matter of luck. Steps that bring n along can do without: with ``noise_px``, the part b of G (D_y - D) that
    a regression on G n explains around each pixel counts with the mean of its square over that neighbourhood, instead
    of where the noise happened to lie: (G (D_y - D) - b)^2 + S(b^2). Least squares leave no correlation between b and
    what is left, so the density's mean over a neighbourhood stays what it is, and its variance falls (a control
    variate).

    Args:
        window: the noise levels that count.
        lowpass_px: standard deviation of G in pixels; 0 counts all spatial frequencies, as in the paper.
        noise_px: standard deviation in pixels of the neighbourhood over which what the noise explains is spread; 0
            leaves it where it fell.
    """

    def __init__(self, window: Window | None = None, *, lowpass_px: float = 0.0, noise_px: float = 0.0) -> None:
        self.window = window or Window()
        self.lowpass_px, self.noise_px = lowpass_px, noise_px
        self._sum: torch.Tensor | None = None
        self._shape = torch.Size()

    def __call__(self, step: Step) -> None:
        """Add one step."""
        weight = self.window.weight(step.sigma, step.sigma_next)
        if weight > 0:
            self._shape = step.denoised_prior.shape
            moved = move_of(step, self.lowpass_px, noise=self.noise_px > 0).squared(self.noise_px) * weight
            self._sum = moved if self._sum is None else self._sum.add_(moved)

    def density(self, *, draws: int = 1) -> torch.Tensor:
        """The KL density.

        Args:
            draws: number of passes over the window's levels whose sums were accumulated; their mean is returned.

        Returns:
            float32 (B, 1, H, W), nats per pixel; negative here and there where steps brought samples along.

        Raises:
            ValueError: if no step fell into the window.
        """
        if self._sum is None:
            raise ValueError(f"window: no step had a noise level within {self.window.low:g} to {self.window.high:g}")
        return to_pixels(self._sum / draws, self._shape)


def squared_move(step: Step, *, lowpass_px: float, noise_px: float = 0.0) -> torch.Tensor:
    """||G (D_y - D)||^2 of a step, pixel by pixel, float32 (B, 1, H, W); G and ``noise_px`` as in `KLAccumulator`.

    If the step has a sample x0, G (x0 - D) times G (D_y - D), which may be negative.
    """
    move = move_of(step, lowpass_px, noise=noise_px > 0)
    return to_pixels(move.squared(noise_px), step.denoised_prior.shape)


class Move(NamedTuple):
    """What is kept of a step, low-passed, each float32 (B, 1, h, w) on the grid of :func:`_lowpassed`.

    Attributes:
        move: G (D_y - D).
        other: what it is multiplied with: G (x0 - D), or itself.
        noise: G n, of the noise that was drawn for the step; None where it is not known or not asked for.
        coarser: pixels of the slice in one of this grid.
    """

    move: torch.Tensor
    other: torch.Tensor
    noise: torch.Tensor | None
    coarser: int

    def squared(self, noise_px: float) -> torch.Tensor:
        """The product of move and other, with what the noise explains of it spread over ``noise_px``, (B, 1, h, w)."""
        move, other, noise, coarser = self
        if noise_px == 0 or noise is None:
            return move * other
        within_px, of = noise_px / coarser, (move,) if other is move else (move, other)
        by_noise = explained_by(noise, of, within_px=within_px)
        spread = _around(by_noise[0] * by_noise[-1], within_px=within_px)
        return (move - by_noise[0]) * (other - by_noise[-1]) + spread


def move_of(step: Step, lowpass_px: float, *, noise: bool) -> Move:
    """The move of a step, low-passed in the plane; ``noise``: with the noise that was drawn, where it is known."""
    move = _lowpassed(step.denoised_posterior - step.denoised_prior, lowpass_px)
    other = move if step.sample is None else _lowpassed(step.sample - step.denoised_prior, lowpass_px)
    drawn = None if step.noise is None or not noise else _lowpassed(step.noise, lowpass_px)
    return Move(move, other, drawn, step.denoised_prior.shape[-1] // move.shape[-1])


def _lowpassed(values: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """G times values (B, 1, H, W), on a grid as coarse as its width allows: means of s x s pixels, s <= ``sigma_px``.

    What G leaves above the coarse grid's highest frequency is at most 1 % of an amplitude there. The mean of s pixels,
    of variance (s^2 - 1) / 12, is part of G; and either kernel is the integral of a Gaussian over its pixels, which
    adds 1/12 of a pixel's.
    """
    side = int(sigma_px)
    if side < 2 or values.shape[-2] % side or values.shape[-1] % side:
        return smooth(values, sigma_px=sigma_px)
    variance = (sigma_px**2 + 1 / 12 - (side**2 - 1) / 12) / side**2 - 1 / 12
    return smooth(avg_pool2d(values, side), sigma_px=variance**0.5)


def to_pixels(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A density on the coarse grid, nats per pixel, brought back to the pixels (B, 1, H, W)."""
    if values.shape[-2:] == shape[-2:]:
        return values
    return interpolate(values, shape[-2:], mode="bilinear")


def explained_by(noise: torch.Tensor, moves: Sequence[torch.Tensor], *, within_px: float) -> list[torch.Tensor]:
    """The part of moves that follows the noise: their regression on the noise in the neighbourhood of each pixel.

    Args:
        noise: of unit variance before it was smoothed, float32 (B, 1, H, W).
        moves: each float32 (B, 1, H, W).
        within_px: standard deviation of the Gaussian neighbourhood, in pixels.

    Returns:
        For each move beta times noise with beta = S(noise move) / S(noise^2), S the mean over the neighbourhood.
    """
    means = _around(torch.cat([*(noise * move for move in moves), noise.square()]), within_px=within_px)
    *shared, whole = means.chunk(len(moves) + 1)
    whole = whole.clamp_min(_LEAST)
    return [each / whole * noise for each in shared]


def _around(values: torch.Tensor, *, within_px: float) -> torch.Tensor:
    """Mean around each pixel, float32 (B, 1, H, W): a Gaussian, on a grid as coarse as its width allows."""
    step = max(1, int(within_px / 4))
    shape = values.shape[-2:]
    if step > 1:
        values = avg_pool2d(values, step, ceil_mode=True, count_include_pad=False)
    inside = smooth(torch.ones_like(values[:1]), sigma_px=within_px / step)
    means = smooth(values, sigma_px=within_px / step) / inside
    return means if step == 1 else interpolate(means, shape, mode="bilinear")


def smooth(density: torch.Tensor, *, sigma_px: float) -> torch.Tensor:
    """Gaussian smoothing in the plane, zeros around, with the kernel of MONAI's GaussianFilter.

    On a CPU as sums of shifted slices, which is less work for a core than a convolution of one channel.

    Args:
        density: float (B, C, H, W), nats per pixel.
        sigma_px: standard deviation in pixels; 0 leaves the density as it is.

    Returns:
        Same shape and unit.
    """
    if sigma_px == 0:
        return density
    kernel = _kernel(sigma_px)
    if density.device.type == "cpu":
        few = density.split(max(1, _CACHED * len(density) // max(1, density.numel())))
        return torch.cat([_summed(_summed(part, kernel, dim=-2), kernel, dim=-1) for part in few])
    weights, reach = density.new_tensor(kernel), len(kernel) // 2
    rows = conv2d(density.flatten(0, 1)[:, None], weights[None, None, :, None], padding=(reach, 0))
    return conv2d(rows, weights[None, None, None, :], padding=(0, reach)).reshape(density.shape)


def _summed(values: torch.Tensor, kernel: tuple[float, ...], *, dim: Literal[-2, -1]) -> torch.Tensor:
    """(B, C, H, W) smoothed along one axis by a symmetric kernel, as a sum of shifted copies."""
    reach, n = len(kernel) // 2, values.shape[dim]
    padded = pad(values, (0, 0, reach, reach) if dim == -2 else (reach, reach))
    out = padded.narrow(dim, reach, n) * kernel[reach]
    for shift in range(reach):
        pair = padded.narrow(dim, shift, n) + padded.narrow(dim, 2 * reach - shift, n)
        out.add_(pair, alpha=kernel[shift])
    return out


@lru_cache(maxsize=32)
def _kernel(sigma_px: float) -> tuple[float, ...]:
    """A Gaussian out to 3 standard deviations."""
    return tuple(gaussian_1d(torch.tensor(sigma_px), truncated=3.0).tolist())


def block_scores(density: torch.Tensor, *, size: int) -> torch.Tensor:
    """The paper's KLIP score: sums of the density over non-overlapping blocks.

    Args:
        density: float (B, 1, H, W), nats per pixel; H and W divisible by ``size``.
        size: side of a block in pixels.

    Returns:
        float (B, 1, H / size, W / size), nats per block.

    Raises:
        ValueError: if the blocks do not tile the image.
    """
    if density.shape[-1] % size or density.shape[-2] % size:
        raise ValueError(f"size: got blocks of {size} pixels, expected a divisor of {tuple(density.shape[-2:])}")
    return avg_pool2d(density, size) * size**2
