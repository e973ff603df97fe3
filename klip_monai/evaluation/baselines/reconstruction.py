"""What the prior makes of a slice that noise has partly hidden, and how far that lies from the slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from monai.metrics import SSIMMetric

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines.slice_method import (
    Level,
    SliceMethod,
    check_healthy,
    check_level,
    fitted,
    plain,
)
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.sampling import prior_sample
from klip_monai.slice_generator import SliceGenerator

if TYPE_CHECKING:
    from typing_extensions import Self

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class AnoDDPM(SliceMethod):
    """Partial diffusion (Wyatt et al. 2022): squared distance to a reconstruction from one noise level.

    The paper noises with simplex noise, which it trains its prior on. A prior that is trained with Gaussian noise can
    only remove Gaussian noise, so that is added here: the paper's own Gaussian variant.

    Attributes:
        sigma_start: noise level of the reconstruction. The paper's 250 of 1000 steps (linear schedule) are 0.95.
        levels: noise levels from there to ``sigma_min``, log-spaced.
        sigma_min: lowest noise level.
        churn: fresh noise in the sampler, 0 (DDIM) to 1 (ancestral, as in the paper).

    The result is a map (B, 1, H, W), in squared units of the [-1, 1] image.
    """

    sigma_start: float = 0.95
    levels: int = 20
    sigma_min: float = 0.02
    churn: float = 1.0

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return self.levels

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        sigmas = log_sigmas(self.levels, sigma_max=self.sigma_start, sigma_min=self.sigma_min).tolist()
        return (images - _reconstruction(images, network, generator, sigmas=sigmas, churn=self.churn)).square()


@dataclass(frozen=True)
class HealthyErrors:
    """Mean and standard deviation of healthy slices' reconstruction errors, for each of K starting levels.

    Attributes:
        pixel: of the squared error of in-body pixels, float64 (K, 2).
        slice: of the mean squared error and of 1 - SSIM of slices, float64 (K, 2, 2): level, kind, (mean, std).
    """

    pixel: torch.Tensor
    slice: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class DDPMOOD(SliceMethod):
    """Reconstructions from several noise levels, z-scored by healthy slices (Graham et al. 2023).

    From each starting level DDIM runs down to a reconstruction. Its errors are z-scored by those of healthy slices from
    the same level, then averaged over levels. The paper's errors are the mean squared error and LPIPS; LPIPS needs a
    network trained on photographs, which is not part of this package, and structural dissimilarity (1 - SSIM) stands in
    for it.

    Attributes:
        level: "slice" gives the paper's score (B,), the mean z-score of both errors; "pixel" a map (B, 1, H, W), the
            mean z-score of the squared error among in-body pixels, without unit.
        levels: noise levels of the longest run, log-spaced from ``sigma_max`` to ``sigma_min``.
        stride: every how manieth of them a reconstruction starts at.
        sigma_max: highest starting level.
        sigma_min: lowest noise level.
        healthy: errors of healthy slices; None before :meth:`fit`.
    """

    level: Level = "pixel"
    levels: int = 20
    stride: int = 4
    sigma_max: float = 10.0
    sigma_min: float = 0.02
    healthy: HealthyErrors | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_level(self.level)
        if not 1 <= self.stride <= self.levels:
            raise InputError(f"stride: got {self.stride}, expected 1 to levels ({self.levels})")

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return sum(self.levels - start for start in self._starts())

    def fit(self, images: torch.Tensor, body: torch.Tensor, network: Denoiser, /) -> Self:
        """Learn the errors of healthy slices; see :class:`klip_monai.evaluation.method.Fitted`.

        Args:
            images: healthy standard slices (B, 1, H, W) in [-1, 1], at least 2.
            body: bool (B, 1, H, W), True inside the body.
            network: the prior.

        Raises:
            InputError: for fewer slices.
        """
        check_healthy(images, least=2)
        images = plain(images)
        made = self._in_batches(images, lambda batch, generator: self._reconstructions(batch, network, generator))
        squared, inside = (images - made).square(), body[:, 0].to(images.device)
        pixel = torch.stack([_mean_std(squared[:, k][inside]) for k in range(squared.shape[1])])
        return replace(self, healthy=HealthyErrors(pixel, _mean_std(_slice_errors(images, made))))

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        healthy = fitted(self.healthy, self)
        made = self._reconstructions(images, network, generator)
        if self.level == "slice":
            mean, std = healthy.slice.to(images.device).unbind(dim=-1)
            return ((_slice_errors(images, made) - mean) / std).mean(dim=(1, 2)).float()
        mean, std = healthy.pixel.to(images)[:, :, None, None].unbind(dim=1)
        return (((images - made).square() - mean) / std).mean(dim=1, keepdim=True)

    def _starts(self) -> range:
        """Places of the starting levels among the levels."""
        return range(0, self.levels, self.stride)

    def _reconstructions(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        """One reconstruction a starting level, (B, K, H, W)."""
        sigmas = log_sigmas(self.levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min).tolist()
        made = [_reconstruction(images, network, generator, sigmas=sigmas[start:], churn=0) for start in self._starts()]
        return torch.cat(made, dim=1)


def _reconstruction(
    images: torch.Tensor, network: Denoiser, generator: SliceGenerator, *, sigmas: Sequence[float], churn: float
) -> torch.Tensor:
    """Slices (B, 1, H, W) noised to the first level and brought back by the prior alone, within [-1, 1]."""
    noisy = images + sigmas[0] * generator.normal(images)
    return prior_sample(network, noisy, sigmas=sigmas, generator=generator, churn=churn).clamp(-1, 1)


def _slice_errors(images: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Mean squared error and 1 - SSIM of reconstructions (B, K, H, W), float64 (B, K, 2)."""
    similarity = [
        torch.as_tensor(SSIMMetric(spatial_dims=2, data_range=2.0)(y_pred=one, y=images))[:, 0]
        for one in made.split(1, dim=1)
    ]
    squared = (images - made).square().double().mean(dim=(2, 3))
    return torch.stack([squared, 1 - torch.stack(similarity, dim=1).double()], dim=-1)


def _mean_std(values: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over the first axis, float64 (..., 2)."""
    values = values.double()
    return torch.stack([values.mean(dim=0), values.std(dim=0).clamp_min(_TINY)], dim=-1)
