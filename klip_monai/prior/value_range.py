"""Denoisers that were trained on other values than [-1, 1]."""

from __future__ import annotations

import torch
from torch import nn

from klip_monai.errors import BundleError


class ValueRangeDenoiser(nn.Module):
    """Asks a network that knows slices in [low, high] about slices in [-1, 1].

    With z = a x + b for the values, a = (high - low)/2 and b = (high + low)/2, noise of level sigma becomes noise of
    level a sigma, and D(x, sigma) = (D_z(a x + b, a sigma) - b)/a.

    Args:
        denoiser: D_z, a `Denoiser` in its own values.
        value_range: (low, high) that -1 and 1 stand for, such as (0, 1).

    Raises:
        BundleError: unless low < high.
    """

    def __init__(self, denoiser: nn.Module, value_range: tuple[float, float]) -> None:
        super().__init__()
        low, high = value_range
        if not low < high:
            raise BundleError(f"value_range: got {tuple(value_range)}, expected (low, high).")
        self.denoiser = denoiser
        self.scale, self.shift = (high - low) / 2, (high + low) / 2

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) of the wrapped denoiser."""
        shape: tuple[int, int] = self.denoiser.image_shape  # type: ignore[assignment]
        return shape

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
        """Denoise slices (B, 1, H, W) in [-1, 1], see `Denoiser`; ``where`` is handed on as it is."""
        denoised: torch.Tensor = self.denoiser(self.scale * x + self.shift, self.scale * sigma, *where)
        return (denoised - self.shift) / self.scale
