"""What pictures and scenes show of a case, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from klip_monai.errors import InputError
from klip_monai.io.source_grid import as_affine, as_finite_volume, as_labels
from klip_monai.report.preview_geometry import PreviewScan


@dataclass(frozen=True)
class Shown:
    """A scan with what was found in it.

    Attributes:
        volume_hu: (X, Y, Z) HU.
        heatmap: (X, Y, Z), in ``unit``.
        labels: (X, Y, Z), 0 background, 1 suspicious, 2 strongly suspicious.
        affine: (4, 4) voxel-to-RAS matrix in mm, with perpendicular axes.
        scale: heat map values shown as transparent and as the last colour; the same for every scan of a bundle.
        unit: of the heat map and the scale.
        region: (X, Y, Z), the part of the scan that was looked at; None is all of it.
        places: RAS mm of labelled places, numbered from 1.

    Raises:
        InputError: arrays of different shapes, values that are not finite, sheared axes (a tilted gantry), which no
            Slicer volume can hold, or a scale that does not rise.
    """

    volume_hu: npt.ArrayLike | torch.Tensor
    heatmap: npt.ArrayLike | torch.Tensor
    labels: npt.ArrayLike | torch.Tensor
    affine: npt.ArrayLike | torch.Tensor
    scale: tuple[float, float]
    unit: str = "nats per pixel"
    region: npt.NDArray[np.bool_] | None = None
    places: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        arrays = (
            as_finite_volume("volume_hu", self.volume_hu),
            as_finite_volume("heatmap", self.heatmap),
            as_labels(self.labels),
        )
        for name, array in zip(("volume_hu", "heatmap", "labels"), arrays, strict=True):
            object.__setattr__(self, name, array)
        object.__setattr__(self, "affine", as_affine(self.affine))
        if len({array.shape for array in arrays}) > 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(f"volume_hu, heatmap, labels: got shapes {shapes}, expected one (X, Y, Z) for all three")
        if not np.isfinite(self.scale).all() or self.scale[0] >= self.scale[1]:
            raise InputError(f"scale: got {self.scale}, expected (low, high) in {self.unit} with low below high")

    @property
    def scan(self) -> PreviewScan:
        """Turned to run towards patient right, anterior, superior."""
        return PreviewScan(self.volume_hu, self.heatmap, self.labels, self.affine, self.region, places=self.places)  # type: ignore[arg-type]
