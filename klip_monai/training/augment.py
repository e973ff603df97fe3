"""Random changes of whole batches that keep a healthy slice a healthy slice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

_ELASTIC_NODES = 6  # control points of the elastic motion along each axis
_GRAIN_PX = 0.7  # correlation of added noise, about that of a standard reconstruction kernel
_BLUR_RADIUS = 4


@dataclass(frozen=True, kw_only=True)
class BatchAugment:
    """Random motion, contrast and texture, drawn per slice and applied to the batch at once.

    The motion is interpolated bicubically, since bilinear weights would blur the texture that the prior has to learn.
    Whatever enters the picture from outside is air (-1). Contrast, gamma and noise act above air only, so air stays
    air.

    Attributes:
        rotation: largest rotation either way, degrees.
        scale: largest relative change of size either way.
        translation: largest shift along each axis either way, pixels.
        elastic: standard deviation of a smooth random displacement, pixels.
        contrast: largest relative change of (value + 1) either way.
        gamma: largest relative change either way of the exponent of (value + 1) / 2, which keeps both ends.
        blur: largest standard deviation of a Gaussian blur, pixels, so that a prior is not tied to one kernel.
        noise: largest standard deviation of added noise with the grain of CT, in units of the [-1, 1] image.
        probability: share of slices that move, and independently share whose texture changes; the others keep theirs.
    """

    rotation: float = 4.0
    scale: float = 0.03
    translation: float = 4.0
    elastic: float = 0.0
    contrast: float = 0.02
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    probability: float = 0.7

    def __call__(
        self, images: torch.Tensor, generator: torch.Generator, *, weight: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Augment a batch.

        Args:
            images: slices (B, 1, H, W) in [-1, 1].
            generator: source of the draws; its state alone decides them.
            weight: weight of each pixel, (B, 1, H, W), 0 to 1; moves along. A pixel that a weight below 1 had a share
                in gets the lowest weight of its slice. None is one everywhere.

        Returns:
            Augmented slices in [-1, 1] and weight, both (B, 1, H, W), same dtype and device.
        """
        draws = torch.rand(10, len(images), generator=generator, device=generator.device).to(images)
        angle, scale, row, column, contrast, gamma = 2 * draws[:6] - 1
        moves, changes = (draw[:, None, None, None] < self.probability for draw in draws[6:8])
        matrix = self._matrix(angle, scale, row, column, shape=images.shape[-2:])
        grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
        if self.elastic:
            grid = grid + self._displacement(images, generator)
        moved = nn.functional.grid_sample(images + 1, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
        above_air = torch.where(moves, moved, images + 1).clamp_(0, 2)
        if weight is not None:
            lost = nn.functional.grid_sample(1 - weight, grid, mode="bilinear", align_corners=False) > 0
            weight = torch.where(moves, torch.where(lost, weight.amin((1, 2, 3), keepdim=True), 1.0), weight)
        above_air = above_air * (1 + self.contrast * contrast[:, None, None, None])
        if self.gamma:
            above_air = 2 * (above_air / 2).pow(1 + self.gamma * gamma[:, None, None, None])
        if self.blur or self.noise:
            texture = _blurred(above_air, self.blur * draws[8]) if self.blur else above_air
            if self.noise:
                grain = self.noise * draws[9, :, None, None, None] * self._grain(images, generator)
                texture = texture + grain * (above_air > 0)
            above_air = torch.where(changes, texture, above_air)
        return (above_air - 1).clamp(-1, 1), weight

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

    def _displacement(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Smooth random displacement (B, H, W, 2) in normalised (x, y)."""
        shape = (len(images), 2, _ELASTIC_NODES, _ELASTIC_NODES)
        nodes = torch.randn(shape, generator=generator, device=generator.device).to(images)
        field = nn.functional.interpolate(nodes, images.shape[-2:], mode="bicubic", align_corners=True)
        sides = torch.tensor([images.shape[-1], images.shape[-2]], dtype=images.dtype, device=images.device)
        return field.permute(0, 2, 3, 1) * (2 * self.elastic / sides)

    def _grain(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise of unit variance with the short-range correlation of CT, (B, 1, H, W)."""
        white = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
        kernel = _kernels(torch.full((1,), _GRAIN_PX))
        return _blurred(white, torch.full((len(images),), _GRAIN_PX).to(images)) / float(kernel.square().sum())


def _kernels(sigma_px: torch.Tensor) -> torch.Tensor:
    """Gaussian kernels (B, 2 r + 1) of standard deviations (B,), pixels; a delta for 0."""
    at = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=sigma_px.dtype, device=sigma_px.device)
    kernels = torch.exp(-0.5 * (at / sigma_px.clamp_min(1e-2)[:, None]) ** 2)
    return kernels / kernels.sum(dim=1, keepdim=True)


def _blurred(images: torch.Tensor, sigma_px: torch.Tensor) -> torch.Tensor:
    """Each slice (B, 1, H, W) blurred by its own Gaussian (B,), pixels."""
    kernels = _kernels(sigma_px)[:, None]
    stacked, n = images.transpose(0, 1), len(images)
    for kernel in (kernels[:, :, :, None], kernels[:, :, None, :]):
        stacked = nn.functional.conv2d(stacked, kernel, padding="same", groups=n)
    return stacked.transpose(0, 1)
