"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from klip_monai.physics import GaussianNoise, LinearOperator, Noise

_WHITE = GaussianNoise(0.003)


@dataclass(frozen=True)
class Measured:
    """What is measured.

    Attributes:
        operator: A, scaled to unit spectral norm.
        noise: e, such as :class:`klip_monai.physics.PoissonNoise`; white by default, of standard deviation 0.003 in
            units of y.
        data_operator: makes the data in place of ``operator``, which still reconstructs them (a mismatch, as real
            scanners have): same slices and shape of y, and the same physical units before scaling. None: ``operator``.

    Raises:
        ValueError: if the operators do not measure alike, or something is none.
    """

    operator: LinearOperator
    noise: Noise = _WHITE
    data_operator: LinearOperator | None = None

    def __post_init__(self) -> None:
        for name, value, kind in (("operator", self.operator, LinearOperator), ("noise", self.noise, Noise)):
            if not isinstance(value, kind):
                raise ValueError(f"{name}: got {value!r}, expected a {kind.__name__} of klip_monai.physics")
        if self.data_operator is not None:
            shapes = [(one.image_shape, one.range_shape) for one in (self.data_operator, self.operator)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"data_operator: got slices and measurements {shapes[0]}, expected {shapes[1]}")

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        data = {} if self.data_operator is None else {"data_operator": self.data_operator.describe()}
        return {"operator": self.operator.describe(), **self.noise.describe(), **data}
