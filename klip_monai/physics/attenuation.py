"""What the values of an image stand for: linear attenuation in 1/mm, and through it line integrals of a scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from klip_monai.errors import InputError
from klip_monai.physics.operator import LinearOperator

MU_WATER = 0.0193
"""Linear attenuation of water at 70 keV, about the mean of a 120 kV beam, per mm (NIST, Hubbell and Seltzer, 1995)."""


@dataclass(frozen=True)
class AttenuationScale:
    """The affine map between image values in [-1, 1] and linear attenuation: -1 is `low`, +1 is `high`.

    With mu = middle + slope x and A = scale * A_raw, line integrals p = A_raw mu (no unit) and y = A x obey

        p = (slope y + middle A 1) / scale

    where A 1 is the measurement of an image of ones: what the rays cross of the grid, not of the body.

    Attributes:
        low: attenuation at -1, per mm.
        high: attenuation at +1, per mm.

    Raises:
        InputError: not low < high, or not finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"attenuation window: got {self.low} to {self.high} per mm, expected low below high")

    @classmethod
    def from_hu(cls, hu_window: tuple[float, float], *, mu_water: float = MU_WATER) -> AttenuationScale:
        """The scale of images whose -1 and +1 are the ends of a HU window: mu = mu_water (1 + HU / 1000).

        Args:
            hu_window: (low, high) in HU.
            mu_water: attenuation of water at the energy of the beam, per mm.

        Raises:
            InputError: a window that does not rise, or an attenuation of water that is not positive.
        """
        if not mu_water > 0:
            raise InputError(f"mu_water: got {mu_water}, expected the attenuation of water per mm, about {MU_WATER}")
        low, high = (mu_water * (1 + hu / 1000) for hu in hu_window)
        return cls(low, high)

    @property
    def slope(self) -> float:
        """Attenuation of one unit of the image, per mm."""
        return (self.high - self.low) / 2

    @property
    def middle(self) -> float:
        """Attenuation at 0, per mm."""
        return (self.high + self.low) / 2

    @property
    def vacuum(self) -> float:
        """Image value without attenuation; far below -1 where the window is narrow."""
        return -self.middle / self.slope

    def attenuation(self, images: torch.Tensor) -> torch.Tensor:
        """Linear attenuation per mm of images of any shape."""
        return self.middle + self.slope * images

    def unit(self, operator: LinearOperator) -> float:
        """Units of y in one unit of the line integrals."""
        return operator.scale / self.slope

    def measurement(self, line_integrals: torch.Tensor, operator: LinearOperator) -> torch.Tensor:
        """Line integrals (B, *range_shape), no unit, as the measurement y = A x of the image that made them."""
        return line_integrals * self.unit(operator) - self.middle / self.slope * _of_ones(operator, line_integrals)

    def line_integrals(self, y: torch.Tensor, operator: LinearOperator) -> torch.Tensor:
        """A measurement y = A x, (B, *range_shape), as line integrals of attenuation, no unit."""
        return (self.slope * y + self.middle * _of_ones(operator, y)) / operator.scale

    def describe(self) -> dict[str, float]:
        """Return {"low_per_mm", "high_per_mm"}."""
        return {"low_per_mm": self.low, "high_per_mm": self.high}


def _of_ones(operator: LinearOperator, like: torch.Tensor) -> torch.Tensor:
    return operator.A(torch.ones(1, 1, *operator.image_shape, dtype=like.dtype, device=like.device))
