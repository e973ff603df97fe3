"""Noise levels sigma of the variance-exploding process x_sigma = x0 + sigma n, in units of a [-1, 1] image."""

from __future__ import annotations

import math

import torch

from klip_monai.errors import InputError


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
    if n < 1:
        raise InputError(f"n: got {n} noise levels, expected at least 1.")
    if not 0 < sigma_min <= sigma_max:
        raise InputError(
            f"sigma_min, sigma_max: got {sigma_min} and {sigma_max}, expected 0 < sigma_min <= sigma_max; "
            "swap or raise them."
        )
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64).exp().float()
