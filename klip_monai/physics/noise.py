"""Measurement noise as frozen values: each makes noisy measurements and says how far each of them can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch

from klip_monai.errors import InputError
from klip_monai.physics.attenuation import AttenuationScale
from klip_monai.physics.operator import LinearOperator
from klip_monai.physics.tomography import Tomography
from klip_monai.slice_generator import SliceGenerator


@dataclass(frozen=True)
class Measurement:
    """What a scanner hands over.

    Attributes:
        y: measurements (B, *range_shape), float32, in units of an operator of unit spectral norm.
        std: standard deviation of their noise in the same units: one number, or a tensor broadcastable to `y`.
    """

    y: torch.Tensor
    std: float | torch.Tensor


@runtime_checkable
class Noise(Protocol):
    """What makes a noisy measurement from a clean one."""

    def apply(
        self, y: torch.Tensor, *, images: torch.Tensor, operator: LinearOperator, generator: SliceGenerator
    ) -> Measurement:
        """Add noise.

        Args:
            y: noise-free measurements (B, *range_shape), in units of `operator`.
            images: the slices that were measured, (B, 1, H, W) in [-1, 1].
            operator: A, scaled to unit spectral norm.
            generator: source of all randomness, with B slices.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return what defines the noise, JSON-able; it is hashed into the key of ID references."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """White noise: y + e with e ~ N(0, std^2 I).

    Attributes:
        std: standard deviation in units of y.

    Raises:
        InputError: `std` is not positive.
    """

    std: float

    def __post_init__(self) -> None:
        if not isinstance(self.std, Real) or not self.std > 0:
            raise InputError(
                f"noise_std: got {self.std}, expected a positive standard deviation of the measurement, in units of y"
            )

    def apply(
        self, y: torch.Tensor, *, images: torch.Tensor, operator: LinearOperator, generator: SliceGenerator
    ) -> Measurement:
        """Add noise; see :meth:`Noise.apply`. Neither images nor operator matter."""
        return Measurement(y + self.std * generator.normal(y), self.std)

    def describe(self) -> dict[str, Any]:
        """Return {"noise_std"}, as ID references have always been keyed by."""
        return {"noise_std": self.std}


@dataclass(frozen=True)
class PoissonNoise:
    """Counting noise of a transmission scan after the logarithm.

    A ray of line integral p = A_raw mu lets N ~ Poisson(N0 exp(-p)) photons through, and its measured line integral is
    -ln(N / N0). To first order in 1 / N its mean is p and its variance

        exp(p) / N0 = 1 / E[N]

    (Sauer and Bouman, 1993), so rays through thick or dense parts count less. The mean lies above p by 1 / 2 E[N]. A
    ray without any photon is taken for one photon. In units of y both are multiplied by scale / slope, see
    :class:`AttenuationScale`.

    Pixels at -1 are taken for vacuum, not for the low end of the window: standard slices are clipped to the window, and
    the air around the body is -1 in them. Where no gas is clipped away this is no approximation.

    Attributes:
        photons: N0, photons a ray that meets nothing; about 1e4 (low dose) to 1e6.
        scale: what the image's values attenuate.

    Raises:
        InputError: `photons` below 1.
    """

    photons: float
    scale: AttenuationScale

    def __post_init__(self) -> None:
        if not self.photons >= 1:
            raise InputError(f"photons: got {self.photons}, expected the photons of an unattenuated ray, 1 or more")

    def apply(
        self, y: torch.Tensor, *, images: torch.Tensor, operator: LinearOperator, generator: SliceGenerator
    ) -> Measurement:
        """Add noise and give each ray the standard deviation that its count says; see :meth:`Noise.apply`.

        Raises:
            InputError: `operator` is no tomography, so that there are no rays to count photons of.
        """
        if not isinstance(operator, Tomography):
            raise InputError(
                f"noise: got {type(self).__name__} with {type(operator).__name__}, expected a Tomography; use "
                "GaussianNoise"
            )
        attenuation = torch.where(images > -1, self.scale.attenuation(images), 0.0).clamp_min(0)
        clean = operator.A(attenuation).double() / operator.scale
        counts = generator.poisson(self.photons * torch.exp(-clean)).clamp_min(1)
        measured = (self.photons / counts).log()
        noise = (measured - clean) * self.scale.unit(operator)
        return Measurement(y + noise.to(y.dtype), self.std(measured, operator).to(y.dtype))

    def std(self, line_integrals: torch.Tensor, operator: LinearOperator) -> torch.Tensor:
        """Standard deviation of each ray in units of y, from measured line integrals (no unit); same shape."""
        return torch.exp(line_integrals / 2) / self.photons**0.5 * self.scale.unit(operator)

    def describe(self) -> dict[str, Any]:
        """Return {"noise"}."""
        return {"noise": {"type": type(self).__name__, "photons": self.photons, **self.scale.describe()}}
