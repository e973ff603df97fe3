"""A scanner that knows nothing of the reconstruction's pixels: data for it are made on a finer grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from klip_monai.errors import InputError
from klip_monai.physics.geometry import FanBeam, ParallelBeam
from klip_monai.physics.operator import LinearOperator
from klip_monai.physics.solvers import spectral_norm
from klip_monai.physics.tomography import Tomography


class FinerGrid(LinearOperator):
    """Line integrals of slices interpolated to smaller pixels, along the same rays as those of the geometry.

    Data made so and reconstructed by `Tomography(geometry)` do not share its discretisation, which would make
    reconstruction look easier than it is (the inverse crime; Kaipio and Somersalo, 2007).

    Args:
        geometry: the acquisition, with the pixels of the slices that are measured.
        factor: how many times smaller the pixels are, 2 or more; interpolation is linear.
        kernel: as for :class:`Tomography`.

    Raises:
        InputError: a factor below 2, or what `Tomography` refuses.
    """

    def __init__(self, geometry: ParallelBeam | FanBeam, *, factor: int = 2, kernel: str | None = None) -> None:
        if factor < 2 or factor != int(factor):
            raise InputError(f"factor: got {factor}, expected a whole number of at least 2")
        self.factor = int(factor)
        height, width = geometry.image_shape
        # The detector is that of the coarse geometry: replace() keeps what it has resolved.
        fine = replace(geometry, image_shape=(height * factor, width * factor), pixel_mm=geometry.pixel_mm / factor)
        self._fine = Tomography(fine, kernel=kernel)
        self._rows, self._columns = (_interpolation(n, factor) for n in (height, width))
        super().__init__(geometry.image_shape, range_shape=self._fine.range_shape, scale=1.0)
        self._factor = 1.0 / self._fine.scale
        shape = (1, 1, height, width)
        self.scale = 1.0 / spectral_norm(lambda x: self._adjoint(self._forward(x)), shape)
        self._factor *= self.scale

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._fine._forward(self._rows.to(x) @ x @ self._columns.to(x).T) * self._factor

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._rows.to(y).T @ self._fine._adjoint(y) @ self._columns.to(y) * self._factor

    def describe(self) -> dict[str, Any]:
        """Return {"type", "factor", "fine"}."""
        return {"type": "FinerGrid", "factor": self.factor, "fine": self._fine.describe()}

    def __repr__(self) -> str:
        return f"FinerGrid({self.image_shape}, factor={self.factor}, fine={self._fine!r})"


def _interpolation(n: int, factor: int) -> torch.Tensor:
    """(factor n, n) linear interpolation between pixel centres, float64; rows sum to one."""
    unit = torch.eye(n, dtype=torch.float64)[None]
    return torch.nn.functional.interpolate(unit, scale_factor=float(factor), mode="linear")[0].T.contiguous()
