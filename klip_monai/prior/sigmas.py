"""Noise levels sigma of the variance-exploding process x_sigma = x0 + sigma n, in units of a [-1, 1] image."""

from __future__ import annotations

import math

import torch

from klip_monai.errors import InputError


def karras_sigmas(n: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> torch.Tensor:
    """Noise levels evenly spaced in sigma^(1/rho) (Karras et al. 2022, eq. 5, without the final zero).

    Args:
        n: number of levels, at least 1; a single level is ``sigma_max``.
        sigma_min: smallest level, > 0.
        sigma_max: largest level, >= ``sigma_min``.
        rho: how strongly the levels crowd towards ``sigma_min``; 1 is linear.

    Returns:
        Levels (n,), float32, descending from ``sigma_max`` to ``sigma_min``.

    Raises:
        InputError: if the levels are not positive and ordered, ``n`` < 1, or ``rho`` <= 0.
    """
    _check_levels(n, sigma_min=sigma_min, sigma_max=sigma_max)
    if rho <= 0:
        raise InputError(f"rho: got {rho}, expected a positive number; use 7 for the usual spacing.")
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (torch.linspace(*ends, n, dtype=torch.float64) ** rho).float()


def log_sigmas(n: int, *, sigma_max: float, sigma_min: float) -> torch.Tensor:
    """Noise levels evenly spaced in ln(sigma).

    Args:
        n: number of levels, at least 1; a single level is ``sigma_max``.
        sigma_max: largest level, >= ``sigma_min``.
        sigma_min: smallest level, > 0.

    Returns:
        Levels (n,), float32, descending from ``sigma_max`` to ``sigma_min``.

    Raises:
        InputError: if the levels are not positive and ordered, or ``n`` < 1.
    """
    _check_levels(n, sigma_min=sigma_min, sigma_max=sigma_max)
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64).exp().float()


def _check_levels(n: int, *, sigma_min: float, sigma_max: float) -> None:
    """Refuse an empty or unordered range of levels."""
    if n < 1:
        raise InputError(f"n: got {n} noise levels, expected at least 1.")
    if not 0 < sigma_min <= sigma_max:
        raise InputError(
            f"sigma_min, sigma_max: got {sigma_min} and {sigma_max}, expected 0 < sigma_min <= sigma_max; "
            "swap or raise them."
        )
