"""What is usual at each position of a slice, without any network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines.slice_method import SliceMethod, check_healthy, fitted, plain
from klip_monai.prior import Denoiser
from klip_monai.scoring import smooth
from klip_monai.slice_generator import SliceGenerator

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Atlas:
    """Mean and standard deviation of healthy slices at each position, float32 (1, 1, H, W), in [-1, 1] units."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class PositionZScore(SliceMethod):
    """|x - mean| / std of each pixel against healthy slices at the same position: the floor for any learnt prior.

    Mean and variance at a position are of the in-body pixels of healthy slices there, Gaussian-weighted with those
    around, and of one slice's worth of the average over all positions, which decides where hardly any body lies.

    Attributes:
        smoothing_px: standard deviation of the weights, pixels; 0 takes each position by itself.
        least_std: standard deviations below this count as this much, in [-1, 1] units.
        healthy: what was learnt; None before :meth:`fit`.

    The result is a map (B, 1, H, W), without unit. Batch size and seed change nothing.
    """

    smoothing_px: float = 2.0
    least_std: float = 0.02
    healthy: Atlas | None = field(default=None, repr=False, compare=False)

    @property
    def passes(self) -> int:
        """NFE: none."""
        return 0

    def fit(self, images: torch.Tensor, body: torch.Tensor, network: Denoiser, /) -> Self:
        """Learn the usual values; see :class:`klip_monai.evaluation.method.Fitted`.

        Args:
            images: healthy standard slices (B, 1, H, W) in [-1, 1], at least 2.
            body: bool (B, 1, H, W), True inside the body.
            network: not used.

        Raises:
            InputError: for fewer slices, or if they show no body.
        """
        check_healthy(images, least=2)
        weight, images = body.to(images.device).double(), plain(images).double()
        if not bool(weight.any()):
            raise InputError("body: got no pixel inside the body, expected some in the healthy slices")
        sums = [
            (weight * power).sum(dim=0, keepdim=True) for power in (torch.ones_like(images), images, images.square())
        ]
        average = [float(total.sum() / sums[0].sum()) for total in sums]
        count, first, second = (
            smooth(s.float(), sigma_px=self.smoothing_px) + a for s, a in zip(sums, average, strict=True)
        )
        mean = first / count
        std = (second / count - mean.square()).clamp_min(self.least_std**2).sqrt()
        return replace(self, healthy=Atlas(mean, std))

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        atlas = fitted(self.healthy, self)
        got, expected = tuple(images.shape[2:]), tuple(atlas.mean.shape[2:])
        if got != expected:
            raise InputError(
                f"images: got slices of {got} pixels, expected {expected} as the healthy ones; resample to one grid"
            )
        return (images - atlas.mean.to(images)).abs() / atlas.std.to(images)
