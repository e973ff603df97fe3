"""Random changes of whole batches that keep a healthy slice a healthy slice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class BatchAugment:
    """Small random affine motion and contrast change, drawn per slice and applied to the batch at once.

    The motion is interpolated bicubically, since bilinear weights would blur the texture that the prior has to learn.
    Whatever enters the picture from outside is air (-1), and the contrast changes about -1, so air stays air.

    Attributes:
        rotation: largest rotation either way, degrees.
        scale: largest relative change of size either way.
        translation: largest shift along each axis either way, pixels.
        contrast: largest relative change of (value + 1) either way.
        probability: share of slices that move; the others keep their original sampling.
    """

    rotation: float = 4.0
    scale: float = 0.03
    translation: float = 4.0
    contrast: float = 0.02
    probability: float = 0.7

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: slices (B, 1, H, W) in [-1, 1].
            generator: source of the draws; its state alone decides them.

        Returns:
            Augmented slices (B, 1, H, W) in [-1, 1], same dtype and device.
        """
        draws = torch.rand(6, len(images), generator=generator, device=generator.device).to(images)
        angle, scale, row, column, contrast = 2 * draws[:5] - 1
        moves = draws[5] < self.probability
        matrix = self._matrix(angle, scale, row, column, shape=images.shape[-2:])
        grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
        moved = nn.functional.grid_sample(images + 1, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
        above_air = torch.where(moves[:, None, None, None], moved, images + 1)
        gain = 1 + self.contrast * contrast[:, None, None, None]
        return (gain * above_air - 1).clamp(-1, 1)

    def _matrix(
        self, angle: torch.Tensor, scale: torch.Tensor, row: torch.Tensor, column: torch.Tensor, *, shape: torch.Size
    ) -> torch.Tensor:
        """Affine matrices (B, 2, 3) from output to input in normalised (x, y), from draws in [-1, 1]."""
        height, width = shape
        angle, scale = angle * math.radians(self.rotation), 1 + self.scale * scale
        cos, sin = scale * angle.cos(), scale * angle.sin()
        # Normalised axes differ in length when H != W; the ratio keeps the motion a rotation in pixels.
        x_row = torch.stack([cos, -sin * height / width, 2 * self.translation / width * column], dim=-1)
        y_row = torch.stack([sin * width / height, cos, 2 * self.translation / height * row], dim=-1)
        return torch.stack([x_row, y_row], dim=1)
