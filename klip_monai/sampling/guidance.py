"""The gradient of a data misfit through the network, which diffusion posterior sampling (DPS) follows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser

_LEAST_NORM = 1e-12


def residual_norm(residual: torch.Tensor) -> torch.Tensor:
    """||residual|| of each slice: (B, ...) to (B,), with gradient 0 where the residual is 0."""
    return residual.flatten(1).norm(dim=1).clamp_min(_LEAST_NORM)


def misfit_gradient(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: torch.Tensor,
    x: torch.Tensor,
    sigma: float,
    *,
    cost: Callable[[torch.Tensor], torch.Tensor] = residual_norm,
) -> tuple[torch.Tensor, torch.Tensor]:
    """D(x, sigma), and the gradient by x of the cost of y - A D(x, sigma), each slice's own.

    Works under `torch.inference_mode` as well. A backward pass costs about two more passes of the network.

    Args:
        denoiser: the prior; differentiable by x.
        operator: A.
        y: measurements (B, *range_shape).
        x: states, float32 (B, 1, H, W).
        sigma: their noise level.
        cost: of residuals (B, *range_shape), each slice's own, (B,).

    Returns:
        D, detached, and the gradient, both float32 (B, 1, H, W).

    Source: Chung et al., Diffusion posterior sampling, ICLR 2023, Algorithm 1: a step of zeta' / ||residual|| along the
    gradient of the squared residual is twice zeta' along that of its norm.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot take part in a graph; their copies can.
        state = x.detach().clone().requires_grad_()
        denoised = denoiser(state, sigma)
        total = cost(y.detach().clone() - operator.A(denoised)).sum()
        (gradient,) = torch.autograd.grad(total, state)
    return denoised.detach(), gradient
