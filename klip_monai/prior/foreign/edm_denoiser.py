"""EDM, Patch Diffusion and PaDIS networks as denoisers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from klip_monai.errors import BundleError, InputError
from klip_monai.prior.denoiser import per_slice
from klip_monai.prior.foreign.song_unet import SongUNet
from klip_monai.prior.preconditioning import preconditioned


class EDMDenoiser(nn.Module):
    """A `SongUNet` with the preconditioning it was trained with (Karras et al. 2022).

    Networks of Patch Diffusion (Wang et al. 2023) and PaDIS (Hu et al. 2024) have two more input channels: the column
    and the row of each pixel, from -1 at the first to 1 at the last pixel of the image of side R =
    ``model.img_resolution`` that patches were cut from. PaDIS counts the padding around a slice as part of that image.

    Args:
        model: the network; one output channel, and one input channel, or three with positions.
        image_shape: (H, W) of the slices, or of the patches if it is only asked for these.
        sigma_data: standard deviation of the clean images, in the network's units.

    Raises:
        BundleError: if the network has other channels, or does not divide the shape.
    """

    def __init__(self, model: SongUNet, image_shape: Sequence[int], *, sigma_data: float = 0.5) -> None:
        super().__init__()
        if model.out_channels != 1 or model.in_channels not in (1, 3):
            raise BundleError(
                f"model: got {model.in_channels} input and {model.out_channels} output channels, expected 1 and 1, or "
                "3 and 1 for a network that is told positions."
            )
        self.image_shape = (int(image_shape[0]), int(image_shape[1]))
        if any(side % model.multiple for side in self.image_shape):
            raise BundleError(f"image_shape: got {self.image_shape}, expected multiples of {model.multiple}.")
        self.model, self.sigma_data = model, sigma_data

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise.

        Args:
            x: noisy slices (B, 1, H, W), float32, H and W as in ``image_shape`` unless there is a ``box``.
            sigma: noise level > 0, one for all slices or one per slice (B,).
            box: top, left, bottom and right edge of each patch (B, 4), in units in which the image of side R reaches
                from -1 to 1. None: the slices lie in its middle.

        Returns:
            Denoised slices (B, 1, H, W), float32.

        Raises:
            InputError: if ``x`` has another shape or ``sigma`` or ``box`` does not fit it.
        """
        if x.ndim != 4 or x.shape[1] != 1 or (box is None and x.shape[2:] != self.image_shape):
            raise InputError(
                f"x: got shape {tuple(x.shape)}, expected (B, 1, {self.image_shape[0]}, {self.image_shape[1]}); "
                "resample the slices to the prior's image_shape."
            )
        if self.model.in_channels == 1:
            return preconditioned(self.model, x, per_slice(sigma, x), sigma_data=self.sigma_data)
        position = self._position(x, box)
        return preconditioned(
            lambda scaled, c_noise: self.model(torch.cat([scaled, position], dim=1), c_noise),
            x,
            per_slice(sigma, x),
            sigma_data=self.sigma_data,
        )

    def _position(self, x: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor:
        """Column and row of every pixel (B, 2, H, W)."""
        side = self.model.img_resolution
        if box is None:
            edges = x.new_tensor([-x.shape[2], -x.shape[3], x.shape[2], x.shape[3]]) / side
            box = edges.expand(x.shape[0], 4)
        if box.shape != (x.shape[0], 4):
            raise InputError(f"box: got shape {tuple(box.shape)}, expected ({x.shape[0]}, 4), four edges per patch.")
        centres = []
        for axis, n in enumerate(x.shape[2:]):
            first, last = box[:, axis, None], box[:, axis + 2, None]
            centre = first + (torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n * (last - first)
            centres.append(centre * (side / max(side - 1, 1)))  # from edges at -1 and 1 to pixel centres there
        row, column = centres[0][:, :, None], centres[1][:, None, :]
        return torch.stack([column.expand(-1, x.shape[2], -1), row.expand(-1, -1, x.shape[3])], dim=1)
