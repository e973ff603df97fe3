"""Total-variation reconstruction, the classical yardstick for few views."""

from __future__ import annotations

import torch

from klip_monai.physics import LinearOperator


def total_variation(operator: LinearOperator, y: torch.Tensor, *, weight: float, iterations: int = 200) -> torch.Tensor:
    """Minimise 1/2 ||A x - y||^2 + weight * TV(x) over x in [-1, 1] (isotropic TV; Chambolle and Pock, 2011).

    Args:
        operator: A, of unit spectral norm.
        y: measurements (B, *range_shape).
        weight: of the total variation.
        iterations: primal-dual steps.

    Returns:
        Slices (B, 1, H, W).
    """
    step = (1 + 8) ** -0.5  # ||A||^2 = 1 and ||grad||^2 <= 8
    x = operator.A_dagger(y, iterations=5).clamp(-1, 1)
    ahead, p, q = x, torch.zeros_like(y), torch.stack([torch.zeros_like(x)] * 2)
    for _ in range(iterations):
        p = (p + step * (operator.A(ahead) - y)) / (1 + step)
        q = q + step * _gradient(ahead)
        q = q / (q.square().sum(dim=0, keepdim=True).sqrt() / weight).clamp_min(1)
        previous = x
        x = (x - step * (operator.A_adjoint(p) - _divergence(q))).clamp(-1, 1)
        ahead = 2 * x - previous
    return x


def _gradient(x: torch.Tensor) -> torch.Tensor:
    """Forward differences along rows and columns, (2, B, 1, H, W), zero at the far edge."""
    out = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
    out[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    out[1, ..., :, :-1] = x[..., :, 1:] - x[..., :, :-1]
    return out


def _divergence(q: torch.Tensor) -> torch.Tensor:
    """Minus the adjoint of :func:`_gradient`."""
    rows, columns = q[0].clone(), q[1].clone()
    rows[..., -1, :], columns[..., :, -1] = 0, 0
    out = rows + columns
    out[..., 1:, :] -= rows[..., :-1, :]
    out[..., :, 1:] -= columns[..., :, :-1]
    return out
