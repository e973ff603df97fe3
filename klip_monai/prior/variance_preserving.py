"""DDPM networks as denoisers: the variance-preserving process, seen by its noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from klip_monai.errors import BundleError, InputError
from klip_monai.prior.denoiser import per_slice

PREDICTIONS = ("epsilon", "v_prediction", "sample")
_ROUNDING = 1e-4  # relative; a highest level that went through float32 is still the highest level


class VariancePreservingDenoiser(nn.Module):
    """A network of the variance-preserving process (DDPM, Ho et al. 2020) as a `Denoiser`.

    x_t = sqrt(a) x0 + sqrt(1 - a) n at cumulative alpha a is the noisy slice x = x0 + sigma n times sqrt(a), with
    sigma^2 = (1 - a)/a (Song et al. 2021; Karras et al. 2022, Appendix C). The network therefore sees sqrt(a) x, and
    the time of that level, interpolated linearly in ln(sigma) between those it was trained at. With its output F:

        epsilon: D = x - sigma F;   v_prediction: D = a x - sqrt(1 - a) F;   sample: D = F

    (v = sqrt(a) n - sqrt(1 - a) x0, Salimans and Ho 2022). Below the lowest trained level the network is asked at its
    first time, and D tends to x for epsilon and v; above the highest one nothing is known, so such levels are refused.

    Args:
        network: called with x_t (B, C, H, W), float32, and times (B,), float32 in [0, T - 1]; returns (B, C, H, W).
        alphas_cumprod: (T,) products of 1 - beta, in (0, 1), strictly falling; the ``alphas_cumprod`` of a scheduler.
        prediction: what the network predicts: "epsilon", "v_prediction" or "sample".
        whole_times: round times to whole numbers, for networks that look their time up in a table; x_t and D keep the
            exact level.

    Raises:
        BundleError: for an unknown prediction or an ``alphas_cumprod`` that is no such schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        alphas_cumprod: torch.Tensor | Sequence[float],
        *,
        prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        whole_times: bool = False,
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise BundleError(f"prediction: got {prediction!r}, expected one of {', '.join(PREDICTIONS)}.")
        self.network = network
        self.prediction = prediction
        self.whole_times = whole_times
        self.log_sigmas: torch.Tensor
        self.register_buffer("log_sigmas", _log_sigmas(alphas_cumprod), persistent=False)

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Denoise.

        Args:
            x: noisy slices (B, 1, H, W), float32.
            sigma: noise level > 0, one for all slices or one per slice (B,); at most the level of the last time.

        Returns:
            Denoised slices, same shape and dtype as ``x``.

        Raises:
            InputError: if ``sigma`` does not fit ``x`` or is above the highest level the network was trained at.
        """
        level = per_slice(sigma, x)
        times = self.times(level)
        column = level[:, None, None, None]
        scale = (1 + column**2).rsqrt()  # sqrt(a); sqrt(1 - a) is sigma times that
        out = self.network(scale * x, times)
        if self.prediction == "epsilon":
            return x - column * out
        if self.prediction == "v_prediction":
            return scale**2 * x - column * scale * out
        return out

    def times(self, sigma: torch.Tensor) -> torch.Tensor:
        """Times of the noise levels ``sigma`` (B,): float32 (B,) in [0, T - 1], whole numbers if asked for.

        Raises:
            InputError: if a level is above the highest one.
        """
        table, wanted = self.log_sigmas, sigma.log()
        if bool((wanted > table[-1] + _ROUNDING).any()):
            raise InputError(
                f"sigma: got {float(sigma.max()):.4g}, expected at most {float(table[-1].exp()):.4g}, the highest "
                "level this network was trained at; lower the sampler's sigma_max."
            )
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        share = (wanted - table[above - 1]) / (table[above] - table[above - 1])
        times = above - 1 + share.clamp(0, 1)
        return times.round() if self.whole_times else times


def _log_sigmas(alphas_cumprod: torch.Tensor | Sequence[float]) -> torch.Tensor:
    """ln(sigma) of every time, float32 (T,), rising."""
    alphas = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
    inside = bool(((alphas > 0) & (alphas < 1)).all())
    if alphas.ndim != 1 or len(alphas) < 2 or not inside or not bool((alphas.diff() < 0).all()):
        raise BundleError(
            f"alphas_cumprod: got shape {tuple(alphas.shape)}, expected (T,) with T >= 2, strictly falling within "
            "(0, 1); give the cumulative products of 1 - beta."
        )
    return (0.5 * (torch.log1p(-alphas) - alphas.log())).float()
