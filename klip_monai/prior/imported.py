"""What an imported checkpoint comes to: the configuration of a network of ours, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class ImportedPrior:
    """A prior made by another program.

    Attributes:
        network_def: MONAI configuration of the denoiser, JSON-able; may refer to ``@image_shape``. No text of the
            checkpoint may get in: MONAI evaluates texts that start with ``$``.
        config: further entries of the configuration that ``network_def`` refers to.
        weights: state dict of the denoiser.
        image_shape: (H, W) of the images it was trained at, in pixels; None if the checkpoint does not say.
        multiple: both sides of a slice must be multiples of it.
        description: one line for the metadata.
    """

    network_def: Mapping[str, Any]
    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    image_shape: tuple[int, int] | None
    multiple: int
    description: str

    def in_range(self, value_range: tuple[float, float]) -> ImportedPrior:
        """The same prior, of a network that was trained on values in [low, high] instead of [-1, 1]."""
        if tuple(value_range) == (-1.0, 1.0):
            return self
        wrapped = {
            "_target_": "klip_monai.prior.ValueRangeDenoiser",
            "denoiser": dict(self.network_def),
            "value_range": list(value_range),
        }
        weights = {f"denoiser.{name}": value for name, value in self.weights.items()}
        return replace(self, network_def=wrapped, weights=weights)
