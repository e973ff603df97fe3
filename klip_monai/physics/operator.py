"""The linear operator every sampler speaks to, and the identity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from klip_monai.errors import InputError
from klip_monai.physics.geometry import check_image_shape
from klip_monai.physics.solvers import conjugate_gradient


class LinearOperator(ABC):
    """A linear measurement A of slices, scaled to unit spectral norm.

    A = scale * A_raw, where A_raw is the operator in physical units. Dividing y by `scale` gives the measurement in
    physical units back. Shapes are (B, 1, H, W) for images and (B, *range_shape) for measurements. Tensors are float32
    or float64, results follow the device and dtype of the input, and autocast does not lower their precision. A is
    differentiable: the backward pass of `A` is `A_adjoint`, and the other way round, to any order.

    Attributes:
        image_shape: (H, W) in pixels.
        range_shape: shape of one measurement.
        scale: factor on A_raw that makes the spectral norm of A one.
        orthonormal: whether AᵀA is the identity, so that normal equations are solved at once.
    """

    orthonormal = False

    def __init__(self, image_shape: tuple[int, int], *, range_shape: tuple[int, ...], scale: float) -> None:
        self.image_shape = check_image_shape(image_shape)
        self.range_shape = tuple(range_shape)
        self.scale = float(scale)

    @abstractmethod
    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        """A x for a checked batch of images, without autograd."""

    @abstractmethod
    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Aᵀ y for a checked batch of measurements, without autograd."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return everything that defines the operator as a JSON-able dictionary, the same on every machine.

        `scale` follows from the rest and is left out: its last digits depend on the machine, and the description is
        hashed to tie an in-distribution reference to its operator.
        """

    def A(self, x: torch.Tensor) -> torch.Tensor:
        """Measure images.

        Args:
            x: images, shape (B, 1, H, W), float32 or float64.

        Returns:
            Measurements, shape (B, *range_shape), dtype and device of `x`.

        Raises:
            InputError: a wrong shape or dtype.
        """
        result: torch.Tensor = _LinearMap.apply(self._check("x", x, (1, *self.image_shape)), self, False)
        return result

    def A_adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Apply the adjoint: <A x, y> = <x, A_adjoint y>.

        Args:
            y: measurements, shape (B, *range_shape), float32 or float64.

        Returns:
            Images, shape (B, 1, H, W), dtype and device of `y`.

        Raises:
            InputError: a wrong shape or dtype.
        """
        result: torch.Tensor = _LinearMap.apply(self._check("y", y, self.range_shape), self, True)
        return result

    def A_dagger(
        self,
        y: torch.Tensor,
        *,
        method: str = "cg",
        regularization: float = 0.0,
        iterations: int = 50,
        tolerance: float = 0.0,
    ) -> torch.Tensor:
        """Reconstruct images: argmin_x ||A x - y||² + regularization ||x||², by conjugate gradients from zero.

        With regularization 0 the iterations tend to the pseudo-inverse, and stopping early regularises. Since A has
        unit spectral norm, `regularization` is relative to the largest eigenvalue of AᵀA.

        Args:
            y: measurements, shape (B, *range_shape), float32 or float64.
            method: "cg".
            regularization: weight of ||x||², 0 or more.
            iterations: conjugate-gradient iterations.
            tolerance: relative residual of the normal equations at which a sample stops; 0 runs all iterations.

        Returns:
            Images, shape (B, 1, H, W), dtype and device of `y`.

        Raises:
            InputError: a wrong shape or dtype, an unknown method, or a negative option.
        """
        if method != "cg":
            raise InputError(f"method: got {method!r}, expected 'cg' for {type(self).__name__}")
        if not regularization >= 0:
            raise InputError(f"regularization: got {regularization}, expected 0 or more")
        if self.orthonormal:
            return self.A_adjoint(y) / (1 + regularization)

        def normal(x: torch.Tensor) -> torch.Tensor:
            image = self.A_adjoint(self.A(x))
            return image + regularization * x if regularization else image

        return conjugate_gradient(normal, self.A_adjoint(y), iterations=iterations, tolerance=tolerance)

    def _check(self, name: str, value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """`value` as a plain tensor of shape (B, *shape) that A can work on."""
        expected = "(" + ", ".join(["B", *map(str, shape)]) + ")"
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{name}: got {type(value).__name__}, expected a torch tensor of shape {expected}")
        if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
            raise InputError(f"{name}: got shape {tuple(value.shape)}, expected {expected} for {self}")
        if value.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"{name}: got dtype {value.dtype}, expected float32 or float64; convert with {name}.float()"
            )
        # A MetaTensor's affine would not describe the result.
        return value if type(value) is torch.Tensor else value.as_subclass(torch.Tensor)


class Identity(LinearOperator):
    """The identity: measurements are the images themselves (denoising). Its spectral norm is one, so `scale` is 1.

    Args:
        image_shape: (H, W) in pixels.

    Raises:
        InputError: `image_shape` is not two positive integers.
    """

    orthonormal = True

    def __init__(self, image_shape: tuple[int, int]) -> None:
        shape = check_image_shape(image_shape)
        super().__init__(shape, range_shape=(1, *shape), scale=1.0)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y.clone()

    def describe(self) -> dict[str, Any]:
        """Return {"type", "image_shape"}."""
        return {"type": "Identity", "image_shape": list(self.image_shape)}

    def __repr__(self) -> str:
        return f"Identity({self.image_shape})"


class _LinearMap(torch.autograd.Function):
    """A or its adjoint as one differentiable node, so that no sparse matrix is transposed in a backward pass."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, operator: LinearOperator, adjoint: bool) -> torch.Tensor:
        ctx.operator, ctx.adjoint = operator, adjoint
        with torch.autocast(value.device.type, enabled=False):
            return operator._adjoint(value) if adjoint else operator._forward(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        grad: torch.Tensor = _LinearMap.apply(grad_outputs[0], ctx.operator, not ctx.adjoint)
        return grad, None, None
