"""A prior of patches: whole slices are denoised by partitions into patches (PaDIS, Hu et al., NeurIPS 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import nn

from klip_monai.errors import InputError
from klip_monai.prior.denoiser import Denoiser, per_slice
from klip_monai.slice_generator import SliceGenerator

AIR = -1.0  # what lies around a slice; the lower end of every window of HU
_SPREAD = (0.7548776662, 0.5698402910)  # powers of 1/1.3247...: multiples of them, modulo 1, fill the square evenly

Offset = tuple[int, int]


class PatchNetwork(Protocol):
    """A denoiser of patches that is told where they lie: `UNetDenoiser`, or an `EDMDenoiser` with positions."""

    @property
    def image_shape(self) -> tuple[int, int]:
        """(P, Q) of a patch, in pixels."""
        ...

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor, box: torch.Tensor, /) -> torch.Tensor:
        """Denoise patches.

        Args:
            x: noisy patches (N, 1, P, Q), float32.
            sigma: noise level > 0, one for all patches or one per patch (N,).
            box: top, left, bottom and right edge of each patch (N, 4), see `PatchGrid.boxes`.

        Returns:
            Denoised patches, same shape, float32.
        """
        ...


@dataclass(frozen=True)
class PatchGrid:
    """All partitions of a slice with its padding into patches (PaDIS).

    A grid of (H // P + 1) x (W // Q + 1) patches is larger than the slice by the slack m = (H // P + 1) P - H, from 1
    to P, along the rows, and likewise along the columns. Padded with air by the slack on each side, the slice lies
    within the grid wherever its first corner is put, from 0 to m: each of these offsets is one partition, in which
    every pixel belongs to exactly one patch. The more slack, the more partitions, and the more air is denoised in vain.

    Attributes:
        image_shape: (H, W) of the slice, in pixels.
        patch_shape: (P, Q) of a patch, in pixels.
    """

    image_shape: tuple[int, int]
    patch_shape: tuple[int, int]

    @classmethod
    def of_padded(cls, side: int, patch: int) -> PatchGrid:
        """The grid of square slices that have a given side with the padding, as PaDIS counts it.

        A padded side R = H + 2 m is that of a single H for each P: with n = ceil(R / P) - 1 patches along a side it is
        H = 2 n P - R. For PaDIS that makes 256 of 304 pixels in patches of 56, with 24 pixels of padding on each side.

        Args:
            side: R, in pixels.
            patch: P, side of the patches, in pixels.

        Raises:
            InputError: if no slice remains.
        """
        slice_side = 2 * (-(-side // patch) - 1) * patch - side
        if slice_side < 1:
            raise InputError(
                f"patch: got {patch}, which leaves no slice within {side} pixels, its padding included; expected less "
                "than that, and not half of it."
            )
        return cls((slice_side, slice_side), (patch, patch))

    @property
    def counts(self) -> tuple[int, int]:
        """Patches along the rows and along the columns."""
        (height, width), (p, q) = self.image_shape, self.patch_shape
        return height // p + 1, width // q + 1

    @property
    def slack(self) -> Offset:
        """Padding on each side along the rows and along the columns, in pixels: the largest offset."""
        (n, m), (height, width), (p, q) = self.counts, self.image_shape, self.patch_shape
        return n * p - height, m * q - width

    def split(self, x: torch.Tensor, offset: Offset) -> torch.Tensor:
        """Patches (B * patches, 1, P, Q) of slices (B, 1, H, W), slice by slice; outside them is air without noise."""
        rows, columns = self._before(offset)
        n, m = self.counts
        padding = (columns, offset[1], rows, offset[0])
        padded = nn.functional.pad(x, padding, value=AIR)
        return rearrange(padded, "b c (n p) (m q) -> (b n m) c p q", n=n, m=m)

    def join(self, patches: torch.Tensor, offset: Offset) -> torch.Tensor:
        """The slices (B, 1, H, W) whose `split` at the same offset gives these patches."""
        rows, columns = self._before(offset)
        n, m = self.counts
        padded = rearrange(patches, "(b n m) c p q -> b c (n p) (m q)", n=n, m=m)
        return padded[..., rows : rows + self.image_shape[0], columns : columns + self.image_shape[1]]

    def corners(self, offset: Offset) -> torch.Tensor:
        """Row and column of each patch's first pixel within the padded slice, int64 (patches, 2)."""
        starts = [
            first + side * torch.arange(n) for first, side, n in zip(offset, self.patch_shape, self.counts, strict=True)
        ]
        return torch.cartesian_prod(*starts)

    def boxes(self, corners: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Edges of patches in units in which the padded slice reaches from -1 to 1, as a `PatchNetwork` takes them.

        Args:
            corners: row and column of the first pixel within the padded slice, int64 (N, 2).
            shape: sides of the patches, in pixels.

        Returns:
            Top, left, bottom and right, float32 (N, 4).
        """
        padded = [side + 2 * slack for side, slack in zip(self.image_shape, self.slack, strict=True)]
        edges = torch.cat([corners, corners + torch.tensor(shape, device=corners.device)], dim=1)
        return 2 * edges / torch.tensor([*padded, *padded], device=corners.device) - 1

    def _before(self, offset: Offset) -> Offset:
        """Rows and columns of the grid before the slice's first pixel."""
        if not all(0 <= at <= most for at, most in zip(offset, self.slack, strict=True)):
            raise InputError(
                f"offset: got {tuple(offset)}, expected 0 to {self.slack} for slices of {self.image_shape}."
            )
        return self.slack[0] - offset[0], self.slack[1] - offset[1]


class PatchDenoiser(nn.Module):
    """Denoises slices patch by patch, with a network that sees a patch and where it lies.

    Outside a slice is air without noise, in training too, so that D(x, sigma) needs no randomness. A slice may have any
    size; the prior knows positions relative to the padded slice, so it should be about the size it was trained at.

    Args:
        unet: the network, a module; its ``image_shape`` is the shape of a patch.
        offsets: partitions whose results are averaged when whole slices are denoised, spread evenly. One is cheapest;
            more soften the seams between patches, at as many times the cost.
        max_patches: patches that pass the network together; bounds the memory.

    Raises:
        InputError: if ``offsets`` or ``max_patches`` is below 1.
    """

    def __init__(self, unet: PatchNetwork, *, offsets: int = 2, max_patches: int = 256) -> None:
        super().__init__()
        if min(offsets, max_patches) < 1:
            raise InputError(f"offsets, max_patches: got {offsets} and {max_patches}, expected at least 1 each.")
        self.unet, self.offsets, self.max_patches = unet, offsets, max_patches

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise whole slices (mean over partitions) or, with ``box``, the patches that it places, as training does.

        Args:
            x: noisy slices (B, 1, H, W) or patches (B, 1, P, Q), float32.
            sigma: noise level > 0, one for all or one per slice or patch (B,).
            box: where patches lie, (B, 4), see `PatchNetwork`; None for whole slices.

        Returns:
            Denoised slices or patches, same shape, float32.

        Raises:
            InputError: if the shapes or ``sigma`` do not fit.
        """
        if box is not None:
            denoised: torch.Tensor = self.unet(x, sigma, box)
            return denoised
        slack = self.grid(x).slack
        mean = torch.zeros_like(x)
        for k in range(self.offsets):
            row, column = (int((0.5 + k * step) % 1 * (most + 1)) for step, most in zip(_SPREAD, slack, strict=True))
            mean = mean + self.denoise_patches(x, sigma, [(row, column)] * len(x)) / self.offsets
        return mean

    def denoise_patches(self, x: torch.Tensor, sigma: float | torch.Tensor, offsets: Sequence[Offset]) -> torch.Tensor:
        """Denoise whole slices by a single partition each.

        Args:
            x: noisy slices (B, 1, H, W), float32.
            sigma: noise level > 0, one for all slices or one per slice (B,).
            offsets: row and column of each slice's partition, see `PatchGrid`.

        Returns:
            Denoised slices (B, 1, H, W), float32.

        Raises:
            InputError: if one of ``offsets`` is none of the grid's, or the shapes do not fit.
        """
        grid = self.grid(x)
        patches = torch.cat([grid.split(one, offset) for one, offset in zip(x.split(1), offsets, strict=True)])
        boxes = grid.boxes(torch.cat([grid.corners(offset) for offset in offsets]), grid.patch_shape).to(x)
        count = math.prod(grid.counts)
        levels = per_slice(sigma, x).repeat_interleave(count)
        parts = (part.split(self.max_patches) for part in (patches, levels, boxes))
        denoised = torch.cat([self.unet(*part) for part in zip(*parts, strict=True)])
        joined = [grid.join(one, offset) for one, offset in zip(denoised.split(count), offsets, strict=True)]
        return torch.cat(joined)

    def on_random_grids(self, generator: SliceGenerator) -> Denoiser:
        """A denoiser that takes a partition at random for each slice each time it is called (PaDIS).

        Args:
            generator: source of the offsets, with as many slices as are denoised.
        """

        def denoise(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
            rows, columns = (generator.integers(most + 1) for most in self.grid(x).slack)
            return self.denoise_patches(x, sigma, list(zip(rows, columns, strict=True)))

        return denoise

    def grid(self, x: torch.Tensor) -> PatchGrid:
        """The partitions of slices (B, 1, H, W)."""
        if x.ndim != 4 or x.shape[1] != 1:
            raise InputError(f"x: got shape {tuple(x.shape)}, expected slices (B, 1, H, W).")
        return PatchGrid((x.shape[-2], x.shape[-1]), self.unet.image_shape)
