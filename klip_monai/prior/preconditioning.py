"""The preconditioning of Karras et al. 2022 (EDM), whatever the network."""

from __future__ import annotations

from collections.abc import Callable

import torch


def preconditioned(
    residual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    level: torch.Tensor,
    *,
    sigma_data: float,
) -> torch.Tensor:
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), with the coefficients of EDM (Table 1).

    c_skip = sd^2/(sigma^2 + sd^2), c_out = sigma sd/sqrt(sigma^2 + sd^2), c_in = 1/sqrt(sigma^2 + sd^2) and
    c_noise = ln(sigma)/4.

    Args:
        residual: F, called with c_in x (B, 1, H, W) and c_noise (B,); returns (B, 1, H, W).
        x: noisy slices (B, 1, H, W), float32.
        level: noise level of each slice (B,).
        sigma_data: sd, the standard deviation of the clean slices.

    Returns:
        Denoised slices (B, 1, H, W), float32.
    """
    squared, data = level[:, None, None, None] ** 2, sigma_data**2
    scale = (squared + data).sqrt()
    c_skip, c_out, c_in = data / (squared + data), squared.sqrt() * sigma_data / scale, 1 / scale
    return c_skip * x + c_out * residual(c_in * x, level.log() / 4)
