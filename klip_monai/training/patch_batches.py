"""Training batches of a patch prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from klip_monai.errors import InputError
from klip_monai.prior.patches import AIR, PatchGrid
from klip_monai.training.augment import BatchAugment
from klip_monai.training.loss import EDMPrepareBatch, Prepared, noised


class PatchPrepareBatch(EDMPrepareBatch):
    """Augments a batch of slices and cuts noisy patches out of it, anywhere within the padding that `PatchGrid` adds.

    Patches of several sizes teach the network structure at every distance sooner (PaDIS and Patch Diffusion, Wang et
    al., NeurIPS 2023); all patches of a batch have one size. The padding is air without noise and has no part in the
    loss.

    Args:
        sizes: sides of the patches, in pixels; the first is that of the denoiser's grid and sets the padding.
        probabilities: how often each size is taken; PaDIS has 0.5, 0.3 and 0.2 for P, P/2 and P/4.
        patches: patches of the first size that are cut from each slice; smaller ones are cut until they have as many
            pixels.
        p_mean: mean of ln(sigma).
        p_std: standard deviation of ln(sigma).
        seed: seed of the generator.
        augment: applied to the clean slices first; None leaves them.
        device: where the random numbers are drawn; a CPU and a GPU draw different ones.

    Raises:
        InputError: if there is not one probability for each size, or a size or ``patches`` is below 1.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        probabilities: Sequence[float] = (0.5, 0.3, 0.2),
        *,
        patches: int = 4,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        seed: int = 0,
        augment: BatchAugment | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if not sizes or len(sizes) != len(probabilities) or min(*sizes, patches) < 1 or sizes[0] < max(sizes):
            raise InputError(
                f"sizes, probabilities, patches: got {list(sizes)}, {list(probabilities)} and {patches}, expected the "
                "largest size first, one probability for each size, and at least 1 patch."
            )
        super().__init__(p_mean, p_std, seed=seed, augment=augment, device=device)
        self.sizes, self.patches = tuple(sizes), patches
        self.probabilities = torch.tensor(probabilities, dtype=torch.float64, device=self.generator.device)

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Prepared:
        """Cut patches out of the batch's ``image`` (B, 1, H, W), clean slices in [-1, 1], and noise them.

        Returns:
            (noisy patches (N, 1, p, p), target as in `EDMLoss.forward`, (), {"sigma": (N,), "box": (N, 4)}), all on
            ``device``; ``box`` as in `UNetDenoiser.forward`.
        """
        images, weight = self._clean(batchdata, device=device, non_blocking=non_blocking, **kwargs)
        grid = PatchGrid((images.shape[-2], images.shape[-1]), (self.sizes[0], self.sizes[0]))
        size = self.sizes[int(torch.multinomial(self.probabilities, 1, generator=self.generator))]
        repeats = round(self.patches * (self.sizes[0] / size) ** 2)
        corners = self._corners(len(images) * repeats, grid, size).to(images.device)
        inside = torch.ones_like(images)
        layers = [(images, AIR), (inside, 0.0), (inside if weight is None else weight, 0.0)]
        rows, columns = grid.slack
        padded = torch.cat(
            [nn.functional.pad(part, (columns, columns, rows, rows), value=value) for part, value in layers], dim=1
        )
        slices = torch.arange(len(images), device=images.device).repeat_interleave(repeats)
        clean, inside, weight = _cut(padded, slices, corners, size).split(1, dim=1)
        sigma = self._sigma(len(clean)).to(clean)
        noise = self._randn(*clean.shape).to(clean) * inside
        noisy, target, args, options = noised(clean, sigma, noise, weight=weight)
        return noisy, target, args, options | {"box": grid.boxes(corners, (size, size)).to(clean)}

    def _corners(self, n: int, grid: PatchGrid, size: int) -> torch.Tensor:
        """First pixels of patches anywhere in the padded slice, int64 (n, 2)."""
        ends = [side + 2 * slack - size + 1 for side, slack in zip(grid.image_shape, grid.slack, strict=True)]
        draws = [torch.randint(end, (n,), generator=self.generator, device=self.generator.device) for end in ends]
        return torch.stack(draws, dim=1)


def _cut(images: torch.Tensor, slices: torch.Tensor, corners: torch.Tensor, size: int) -> torch.Tensor:
    """Squares (N, C, size, size) of images (B, C, H, W), each out of one of ``slices`` (N,) from ``corners`` (N, 2)."""
    reach = torch.arange(size, device=images.device)
    rows, columns = (corners[:, axis, None] + reach for axis in (0, 1))
    return images[slices[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
