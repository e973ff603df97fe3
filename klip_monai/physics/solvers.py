"""Iterative solvers on batches: conjugate gradients, bounded least squares and the spectral norm."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from klip_monai.errors import InputError


def conjugate_gradient(
    apply: Callable[[torch.Tensor], torch.Tensor],
    b: torch.Tensor,
    *,
    x0: torch.Tensor | None = None,
    iterations: int,
    tolerance: float = 0.0,
) -> torch.Tensor:
    """Solve M x = b for a symmetric positive semi-definite M, each sample of the batch with its own step sizes.

    A sample stops once its residual is below `tolerance` times its right-hand side (or below machine precision), or
    when the direction has no curvature left, and is then left as it is: a zero right-hand side gives zero, never NaN.
    Differentiable by back-propagation through the iterations. Source: Hestenes and Stiefel, 1952.

    Args:
        apply: x -> M x on batches, shape kept, samples not mixed.
        b: right-hand sides, shape (B, ...), float32 or float64.
        x0: starting points, shape of `b`; zeros if None.
        iterations: most iterations to run.
        tolerance: relative residual at which a sample is done; 0 runs all iterations without waiting for the device.

    Returns:
        Solutions, shape, dtype and device of `b`.

    Raises:
        InputError: negative `iterations` or `tolerance`, or an `x0` of another shape.
    """
    if iterations < 0:
        raise InputError(f"iterations: got {iterations}, expected 0 or more")
    if not tolerance >= 0:
        raise InputError(f"tolerance: got {tolerance}, expected 0 or more")
    if x0 is not None and x0.shape != b.shape:
        raise InputError(f"x0: got shape {tuple(x0.shape)}, expected {tuple(b.shape)} as b")
    x = torch.zeros_like(b) if x0 is None else x0
    residual = b if x0 is None else b - apply(x0)
    direction = residual
    squared = _dot(residual, residual)
    done_below = max(tolerance, torch.finfo(b.dtype).eps) ** 2 * _dot(b, b)
    for _ in range(iterations):
        active = squared > done_below
        if tolerance > 0 and not bool(active.any()):
            break
        image = apply(direction)
        step, active = _divide(squared, _dot(direction, image), active)
        x = x + step * direction
        residual = residual - step * image
        squared_next = _dot(residual, residual)
        ratio, _ = _divide(squared_next, squared, active)
        direction = residual + ratio * direction
        # Freezing by a zero residual rather than by dropping samples keeps the batch shape fixed.
        squared = torch.where(active, squared_next, torch.zeros_like(squared_next))
    return x


def bounded_least_squares(
    forward: Callable[[torch.Tensor], torch.Tensor],
    adjoint: Callable[[torch.Tensor], torch.Tensor],
    y: torch.Tensor,
    *,
    low: float,
    iterations: int,
) -> torch.Tensor:
    """Minimise ||A x - y||^2 over x >= low, for an A whose spectral norm is at most one.

    Accelerated projected gradients from x = low (FISTA; Beck and Teboulle, 2009), the momentum dropped where it points
    uphill (O'Donoghue and Candes, 2015). That nothing attenuates less than vacuum is strong knowledge around a body.

    Args:
        forward: x -> A x.
        adjoint: y -> A^T y.
        y: measurements, shape (B, ...).
        low: least value of x.
        iterations: number of steps.

    Returns:
        Solutions, shape of `adjoint(y)`, dtype and device of `y`.

    Raises:
        InputError: negative `iterations`.
    """
    if iterations < 0:
        raise InputError(f"iterations: got {iterations}, expected 0 or more")
    x = torch.full_like(adjoint(y), low)
    ahead, t = x, torch.ones_like(_dot(x, x))
    for _ in range(iterations):
        previous, x = x, (ahead - adjoint(forward(ahead) - y)).clamp_min(low)
        uphill = _dot(ahead - x, x - previous) > 0
        t = torch.where(uphill, torch.ones_like(t), t)
        t_next = (1 + (1 + 4 * t.square()).sqrt()) / 2
        ahead, t = x + (t - 1) / t_next * (x - previous), t_next
    return x


def spectral_norm(
    normal: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> float:
    """Largest singular value of A from its normal operator AᵀA, by power iteration.

    The starting vector is positive, so for an A without negative entries (every projector) it overlaps the leading
    singular vector (Perron-Frobenius). The Rayleigh quotient never decreases; the iteration stops when one step raises
    it by less than tolerance^2 of itself. With a relative gap g between the two largest eigenvalues a step closes about
    2 g of the error e, and e is at most g, so then e <= min(g, tolerance^2 / 2 g) < tolerance however small the gap.

    Args:
        normal: x -> AᵀA x.
        shape: shape of x.
        seed: seed of the starting vector, drawn on the CPU so that it does not depend on the device.
        tolerance: relative accuracy.
        max_iterations: most products to take.
        dtype: precision of the iteration.
        device: device `normal` works on.

    Returns:
        The spectral norm of A.

    Raises:
        InputError: A maps the starting vector to zero or to something that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64).add_(0.5).to(device=device, dtype=dtype)
    x = x / x.norm()
    eigenvalue = 0.0
    for _ in range(max_iterations):
        image = normal(x)
        previous, eigenvalue = eigenvalue, float((x * image).sum())
        if not math.isfinite(eigenvalue) or eigenvalue <= 0:
            raise InputError(f"operator: spectral norm squared came out as {eigenvalue}, expected a positive number")
        x = image / image.norm()
        if eigenvalue - previous <= tolerance**2 * eigenvalue:
            break
    return math.sqrt(eigenvalue)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of each sample, shape (B, 1, ..., 1)."""
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))


def _divide(a: torch.Tensor, b: torch.Tensor, active: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quotient a / b where active and b > 0, else 0, with a gradient that is never NaN; and where that was."""
    usable = active & (b > 0)
    # Dividing by one first keeps 0/0 out of the backward pass, which a plain where would not.
    return torch.where(usable, a, torch.zeros_like(a)) / torch.where(usable, b, torch.ones_like(b)), usable
