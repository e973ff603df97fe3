"""The KL density: how many nats the measurement moves each pixel off the prior.

Restricted to a window of noise levels and, optionally, to low spatial frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from monai.networks.layers import gaussian_1d

if TYPE_CHECKING:
    from klip_monai.sampling import Step

_BLOCKS = (64, 48, 32)  # rows smoothed by one product
_LEAST = 1e-12


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
    """Sums the KL density of the steps it is called with; memory does not grow with steps.

    KL(p(x|y) || p(x)) = 1/2 sum_k (1/sigma_{k+1}^2 - 1/sigma_k^2) E ||D_y - D||^2 over pixels (path-space divergence of
    the posterior and prior reverse processes; Kheirandish et al., KLIP, CVPR 2026), restricted to a window and kept per
    pixel. Steps that straddle an edge of the window count with the part inside.

    With ``lowpass_px`` it takes ||G (D_y - D)||^2 for a Gaussian G: by Parseval the sum over pixels is then that of
    |G(f)|^2 |FT(D_y - D)(f)|^2 over spatial frequencies f, the part of the divergence that structures wider than G
    carry. Noise grain, which the measurement reveals in healthy tissue too, changes sign from pixel to pixel and drops
    out; a lesion does not. (Samples are never averaged before squaring.)

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

    def __call__(self, step: Step) -> None:
        """Add one step."""
        weight = self.window.weight(step.sigma, step.sigma_next)
        if weight > 0:
            moved = squared_move(step, lowpass_px=self.lowpass_px, noise_px=self.noise_px) * weight
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
        return self._sum / draws


def squared_move(step: Step, *, lowpass_px: float, noise_px: float = 0.0) -> torch.Tensor:
    """||G (D_y - D)||^2 of a step, pixel by pixel, float32 (B, 1, H, W); G and ``noise_px`` as in `KLAccumulator`.

    If the step has a sample x0, G (x0 - D) times G (D_y - D), which may be negative.
    """
    move = smooth(step.denoised_posterior - step.denoised_prior, sigma_px=lowpass_px)
    other = move if step.sample is None else smooth(step.sample - step.denoised_prior, sigma_px=lowpass_px)
    if noise_px == 0 or step.noise is None:
        return move * other
    noise = smooth(step.noise, sigma_px=lowpass_px)
    by_noise = explained_by(noise, move, within_px=noise_px)
    other_by_noise = by_noise if other is move else explained_by(noise, other, within_px=noise_px)
    spread = _around(by_noise * other_by_noise, within_px=noise_px)
    return (move - by_noise) * (other - other_by_noise) + spread


def explained_by(noise: torch.Tensor, move: torch.Tensor, *, within_px: float) -> torch.Tensor:
    """The part of a move that follows the noise: its regression on the noise in the neighbourhood of each pixel.

    Args:
        noise: of unit variance before it was smoothed, float32 (B, 1, H, W).
        move: float32 (B, 1, H, W).
        within_px: standard deviation of the Gaussian neighbourhood, in pixels.

    Returns:
        beta times noise with beta = S(noise move) / S(noise^2), S the mean over the neighbourhood; like ``move``.
    """
    slope = _around(noise * move, within_px=within_px) / _around(noise.square(), within_px=within_px).clamp_min(_LEAST)
    return slope * noise


def _around(values: torch.Tensor, *, within_px: float) -> torch.Tensor:
    """Mean around each pixel, float32 (B, 1, H, W): a Gaussian, on a grid as coarse as its width allows."""
    step = max(1, int(within_px / 4))
    shape = values.shape[-2:]
    if step > 1:
        values = torch.nn.functional.avg_pool2d(values, step, ceil_mode=True, count_include_pad=False)
    inside = smooth(torch.ones_like(values[:1]), sigma_px=within_px / step)
    means = smooth(values, sigma_px=within_px / step) / inside
    return means if step == 1 else torch.nn.functional.interpolate(means, shape, mode="bilinear")


def smooth(density: torch.Tensor, *, sigma_px: float) -> torch.Tensor:
    """Gaussian smoothing in the plane, zeros around.

    Products with banded matrices, block by block along the band: the kernel of MONAI's GaussianFilter, in less time on
    a CPU.

    Args:
        density: float (B, C, H, W), nats per pixel.
        sigma_px: standard deviation in pixels; 0 leaves the density as it is.

    Returns:
        Same shape and unit.
    """
    if sigma_px == 0:
        return density
    return _along_columns(_along_columns(density, sigma_px).mT, sigma_px).mT


def _along_columns(values: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Gaussian smoothing along the rows' direction of (B, C, H, W), zeros around."""
    n = values.shape[-2]
    block = next((size for size in _BLOCKS if n % size == 0), n)
    band = _band(block, sigma_px, values.dtype, values.device)
    reach = (band.shape[1] - block) // 2
    if block + 2 * reach >= n + 2 * reach:  # one block
        return band[:, reach : reach + n] @ values
    padded = torch.nn.functional.pad(values, (0, 0, reach, reach))
    return (band @ padded.unfold(-2, band.shape[1], block).mT).flatten(-3, -2)


@lru_cache(maxsize=32)
def _band(block: int, sigma_px: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix (block, block + 2 reach) that smooths a column, out to 3 standard deviations."""
    with torch.inference_mode(False):  # what is kept has to serve with gradients, too
        kernel = gaussian_1d(torch.tensor(sigma_px), truncated=3.0)
        reach = len(kernel) // 2
        offset = torch.arange(block + 2 * reach) - torch.arange(block)[:, None]
        matrix = torch.where((offset >= 0) & (offset <= 2 * reach), kernel[offset.clamp(0, 2 * reach)], 0.0)
        return matrix.to(device, dtype)


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
    return torch.nn.functional.avg_pool2d(density, size) * size**2
