"""The null that the prior itself gives: what in-distribution look-alikes of a slice score, pixel by pixel.

A twin is a posterior sample of the slice, noised and brought back by the prior alone: similar anatomy, but nothing in
it that the prior does not know. Measured and scored like the slice itself, twins tell how much of a density is anatomy
(a parametric bootstrap). No other data takes part, healthy or not.
"""

from __future__ import annotations

import torch

from klip_monai.scoring.density import smooth

_FLOOR = 0.05


def over_twins(density: torch.Tensor, twins: torch.Tensor, *, smoothing_px: float) -> torch.Tensor:
    """Density of slices in multiples of what their twins score there.

    Where both score next to nothing (air, flat fat) the ratio of two small numbers says nothing; a share of the twins'
    mean density is added to both, so it goes to 1 there.

    Args:
        density: KL density of the slices, float (B, 1, H, W), nats per pixel, not smoothed.
        twins: that of their twins, (B, N, H, W).
        smoothing_px: Gaussian smoothing of the twins' mean, pixels: a few twins say where anatomy scores, but not to
            the pixel.

    Returns:
        Float (B, 1, H, W), without unit; about 1 for healthy tissue. Not smoothed.
    """
    null = smooth(twins.mean(dim=1, keepdim=True), sigma_px=smoothing_px)
    floor = _FLOOR * null.mean(dim=(1, 2, 3), keepdim=True)
    return (density + floor) / (null + floor).clamp_min(torch.finfo(null.dtype).tiny)


def twin_p_values(heatmap: torch.Tensor, twins: torch.Tensor) -> torch.Tensor:
    """Chance that a twin scores at least as high, pixel by pixel (conformal, Vovk et al. 2005).

    Args:
        heatmap: smoothed density of the slices, float (B, 1, H, W).
        twins: that of their twins, (B, N, H, W), smoothed alike.

    Returns:
        Float (B, 1, H, W), from 1 / (N + 1) to 1: with 19 twins or more it can reach 0.05.
    """
    at_least = (twins >= heatmap).sum(dim=1, keepdim=True)
    return (1 + at_least) / (1 + twins.shape[1])
