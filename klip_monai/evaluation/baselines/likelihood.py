"""The prior's likelihood of a slice, by its probability-flow ODE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines.slice_method import SliceMethod
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.slice_generator import SliceGenerator

SOLVERS = ("heun", "euler")


@dataclass(frozen=True, kw_only=True)
class ProbabilityFlowNLL(SliceMethod):
    """-log p(x) by the change of variables along the probability-flow ODE (Song et al. 2021, eq. 13 and 39).

    The ODE of the variance-exploding process is dx/dsigma = (x - D(x, sigma)) / sigma, so

        log p(x) = log N(x_end; 0, sigma_max^2 + s^2) + integral of (N - tr dD/dx) d ln(sigma)

    from sigma_min to sigma_max over N pixels. p is the density at noise level sigma_min. The trace is Hutchinson's
    estimate v^T (dD/dx) v with Rademacher v, one set of v for the whole path (Grathwohl et al. 2019), by
    back-propagation through the network.

    Attributes:
        levels: noise levels, log-spaced; one step of the solver lies between two of them.
        solver: "heun" (second order, two evaluations a step) or "euler".
        probes: vectors v of the trace estimate, averaged.
        sigma_min: noise level where the path begins.
        sigma_max: noise level where it ends; one that the prior was trained for.
        data_std: standard deviation s of the slices in [-1, 1].

    The result is one score a slice (B,), nats. It does not localise.
    """

    levels: int = 25
    solver: Literal["heun", "euler"] = "heun"
    probes: int = 1
    sigma_min: float = 0.02
    sigma_max: float = 10.0
    data_std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in SOLVERS:
            raise InputError(f"solver: got {self.solver!r}, expected one of {', '.join(SOLVERS)}")
        if self.levels < 2 or self.probes < 1:
            raise InputError(f"levels, probes: got {self.levels} and {self.probes}, expected at least 2 and 1")

    @property
    def passes(self) -> int:
        """NFE: network passes a slice, a backward pass counted as two."""
        evaluations = (self.levels - 1) * (2 if self.solver == "heun" else 1)
        return evaluations * (1 + 2 * self.probes)

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        probes = [_rademacher(images, generator) for _ in range(self.probes)]
        sigmas = log_sigmas(self.levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min).flip(0).tolist()
        x, gain = images, torch.zeros(len(images), dtype=torch.float64, device=images.device)
        for sigma, sigma_next in pairwise(sigmas):
            noise, divergence = _flow(network, x, sigma, probes)
            if self.solver == "heun":
                ahead = x + (sigma_next - sigma) * noise
                noise_next, divergence_next = _flow(network, ahead, sigma_next, probes)
                noise, divergence = (noise + noise_next) / 2, (divergence + divergence_next) / 2
            x, gain = x + (sigma_next - sigma) * noise, gain + math.log(sigma_next / sigma) * divergence
        variance = self.sigma_max**2 + self.data_std**2
        end = 0.5 * (x.double().square() / variance + math.log(2 * math.pi * variance)).sum(dim=(1, 2, 3))
        return (end - gain).float()


def _flow(
    network: Denoiser, x: torch.Tensor, sigma: float, probes: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (x - D) / sigma, (B, 1, H, W), and the estimated divergence N - tr dD/dx, float64 (B,)."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        denoised = network(x, sigma)
        slopes = [torch.autograd.grad(denoised, x, probe, retain_graph=True)[0] for probe in probes]
    products = [(v * slope).double().sum(dim=(1, 2, 3)) for v, slope in zip(probes, slopes, strict=True)]
    return (x - denoised).detach() / sigma, x[0].numel() - torch.stack(products).mean(dim=0)


def _rademacher(like: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
    """Signs, +1 or -1 with equal chance."""
    return torch.where(generator.normal(like) < 0, -1.0, 1.0).to(like)
