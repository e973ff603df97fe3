"""What an imported checkpoint comes to: the configuration of a network of ours, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from klip_monai.errors import InputError
from klip_monai.prior.patches import PatchGrid

_MAX_PATCHES = 32  # together; these networks have hundreds of channels at full resolution


@dataclass(frozen=True)
class ImportedPrior:
    """A prior made by another program.

    Attributes:
        network_def: MONAI configuration of the denoiser, JSON-able; may refer to ``@image_shape``. No text of the
            checkpoint may get in: MONAI evaluates texts that start with ``$``.
        config: further entries of the configuration that ``network_def`` refers to.
        weights: state dict of the denoiser.
        image_shape: (H, W) of the images it was trained at, in pixels, their padding included; None if the checkpoint
            does not say. After `in_patches`: of the slices without it.
        multiple: both sides of a slice must be multiples of it.
        description: one line for the metadata.
        knows_positions: whether it can denoise patches, since it is told where they lie.
    """

    network_def: Mapping[str, Any]
    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    image_shape: tuple[int, int] | None
    multiple: int
    description: str
    knows_positions: bool = False

    def in_range(self, value_range: tuple[float, float]) -> ImportedPrior:
        """The same prior, of a network that was trained on values in [low, high] instead of [-1, 1]."""
        if tuple(value_range) == (-1.0, 1.0):
            return self
        return self._within("ValueRangeDenoiser", "denoiser", value_range=list(value_range))

    def in_patches(self, side: int) -> ImportedPrior:
        """The same prior, of a network that was trained on patches of padded images (PaDIS, Hu et al. 2024).

        Comes after `in_range`, since `klip_monai.prior.PatchDenoiser` pads slices with air in [-1, 1]. PaDIS noises the
        padding too, which a `Denoiser` does not.

        Args:
            side: P of the patches, in pixels; the slices then are those of `PatchGrid.of_padded`.

        Raises:
            InputError: if the network does not know positions, or such patches do not fit it.
        """
        if not self.knows_positions or self.image_shape is None:
            raise InputError(f"patch: got {side} for a network that is not told where a patch lies; leave it out.")
        if side < 1 or side % self.multiple:
            raise InputError(f"patch: got {side}, expected a multiple of {self.multiple} for this network.")
        grid = PatchGrid.of_padded(self.image_shape[0], side)
        inner = replace(self, network_def=_of_shape(self.network_def, grid.patch_shape))
        return replace(
            inner._within("PatchDenoiser", "unet", offsets=2, max_patches=_MAX_PATCHES),
            image_shape=grid.image_shape,
            multiple=1,
            description=f"{self.description}, by patches of {side} x {side}",
        )

    def _within(self, wrapper: str, argument: str, **options: Any) -> ImportedPrior:
        """The same prior as the argument of another denoiser of `klip_monai.prior`."""
        definition = {"_target_": f"klip_monai.prior.{wrapper}", argument: dict(self.network_def), **options}
        weights = {f"{argument}.{name}": value for name, value in self.weights.items()}
        return replace(self, network_def=definition, weights=weights)


def _of_shape(definition: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """The configuration with a shape of its own in place of the slices'."""
    own = {name: list(shape) if value == "@image_shape" else value for name, value in definition.items()}
    return {name: _of_shape(value, shape) if isinstance(value, Mapping) else value for name, value in own.items()}
