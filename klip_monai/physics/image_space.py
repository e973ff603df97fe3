"""Operators whose measurements are pictures: blurred, or with pixels missing."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d

from klip_monai.errors import InputError
from klip_monai.physics.geometry import check_image_shape
from klip_monai.physics.operator import LinearOperator
from klip_monai.physics.solvers import spectral_norm

_TRUNCATED = 4.0  # standard deviations at which the Gaussian ends


class GaussianBlur(LinearOperator):
    """Gaussian blur; beyond its edges the slice is zero. Its own adjoint.

    Args:
        image_shape: (H, W) in pixels.
        sigma_px: standard deviation in pixels, above 0.

    Raises:
        InputError: `image_shape` is not two positive integers, or `sigma_px` not above 0.
    """

    def __init__(self, image_shape: tuple[int, int], *, sigma_px: float) -> None:
        shape = check_image_shape(image_shape)
        if not (math.isfinite(sigma_px) and sigma_px > 0):
            raise InputError(f"sigma_px: got {sigma_px}, expected a standard deviation above 0")
        self.sigma_px = float(sigma_px)
        super().__init__(shape, range_shape=(1, *shape), scale=1.0)
        reach = math.ceil(_TRUNCATED * self.sigma_px)
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / self.sigma_px).square())
        self._weights = weights / weights.sum()
        norm = spectral_norm(
            lambda x: self._forward(self._forward(x)), (1, 1, *shape), dtype=torch.float64, device=torch.device("cpu")
        )
        self.scale = 1.0 / norm

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, reach = self._weights.to(x), len(self._weights) // 2
        rows = conv2d(x, weights[None, None, :, None], padding=(reach, 0))
        return conv2d(rows, weights[None, None, None, :], padding=(0, reach)) * self.scale

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._forward(y)

    def describe(self) -> dict[str, Any]:
        """Return {"type", "image_shape", "sigma_px"}."""
        return {"type": "GaussianBlur", "image_shape": list(self.image_shape), "sigma_px": self.sigma_px}

    def __repr__(self) -> str:
        return f"GaussianBlur({self.image_shape}, sigma_px={self.sigma_px})"


class Inpainting(LinearOperator):
    """Keeps some pixels and sets the others to zero. Its own adjoint and, without regularisation, pseudo-inverse.

    Args:
        mask: bool (H, W), True where a pixel is measured.

    Raises:
        InputError: `mask` is not a boolean picture, or nothing is measured.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise InputError(f"mask: got {got}, expected a bool tensor (H, W)")
        if not bool(mask.any()):
            raise InputError("mask: got no pixel that is measured, expected some")
        shape = check_image_shape(tuple(mask.shape))
        super().__init__(shape, range_shape=(1, *shape), scale=1.0)
        self.mask = mask.clone()

    @classmethod
    def from_hex(cls, image_shape: tuple[int, int], bits: str) -> Inpainting:
        """From the mask's bits, as `repr` gives them.

        Args:
            image_shape: (H, W) in pixels.
            bits: hexadecimal digits, a bit a pixel, rows first, the last byte filled up with zeros.

        Raises:
            InputError: `image_shape` is not two positive integers, or `bits` not as many digits as it needs.
        """
        height, width = check_image_shape(image_shape)
        try:
            packed = np.frombuffer(bytes.fromhex(bits), dtype=np.uint8)
        except ValueError:
            packed = np.zeros(0, dtype=np.uint8)
        expected = math.ceil(height * width / 8)
        if len(packed) != expected:
            raise InputError(f"bits: got {bits[:20]!r}, expected {2 * expected} hexadecimal digits for {image_shape}")
        mask = np.unpackbits(packed, count=height * width).astype(bool).reshape(height, width)
        return cls(torch.from_numpy(mask))

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask.to(x)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._forward(y)

    def describe(self) -> dict[str, Any]:
        """Return {"type", "image_shape", "measured", "mask_sha256"}."""
        return {
            "type": "Inpainting",
            "image_shape": list(self.image_shape),
            "measured": float(self.mask.double().mean()),
            "mask_sha256": hashlib.sha256(self.mask.cpu().numpy().tobytes()).hexdigest(),
        }

    def __str__(self) -> str:
        return f"Inpainting({int(self.mask.sum())} of {self.mask.numel()} pixels of {self.image_shape})"

    def __repr__(self) -> str:
        return f"Inpainting.from_hex({self.image_shape}, {np.packbits(self.mask.cpu().numpy()).tobytes().hex()!r})"
