"""Statistics of the score along noise levels, compared with those of healthy slices by a fitted density."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines.slice_method import SliceMethod, check_healthy, fitted
from klip_monai.evaluation.metrics import Values
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.slice_generator import SliceGenerator

if TYPE_CHECKING:
    from typing_extensions import Self

_FOLDS = 5
_LEAST = 10  # healthy slices


@dataclass(frozen=True, kw_only=True)
class ScoreStatistics(SliceMethod):
    """Negative log-likelihood of a slice's statistics under a density of those of healthy slices; one score (B,).

    Attributes:
        levels: noise levels, log-spaced.
        sigma_max: highest noise level.
        sigma_min: lowest noise level.
        healthy: the fitted density; None before :meth:`fit`.
    """

    levels: int = 10
    sigma_max: float = 2.0
    sigma_min: float = 0.02
    healthy: Pipeline | None = field(default=None, repr=False, compare=False)

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return self.levels

    def fit(self, images: torch.Tensor, body: torch.Tensor, network: Denoiser, /) -> Self:
        """Fit the density to healthy slices; see :class:`klip_monai.evaluation.method.Fitted`.

        Args:
            images: healthy standard slices (B, 1, H, W) in [-1, 1], at least 10.
            body: not used; the statistics are of whole slices.
            network: the prior.

        Raises:
            InputError: for fewer slices.
        """
        check_healthy(images, least=_LEAST)
        statistics = self._in_batches(images, lambda batch, _: self.statistics(batch, network))
        return replace(self, healthy=self._density(statistics.cpu().numpy()))

    @abstractmethod
    def statistics(self, images: torch.Tensor, network: Denoiser) -> torch.Tensor:
        """Statistics of slices (B, 1, H, W), float64 (B, F)."""

    @abstractmethod
    def _density(self, statistics: Values) -> Pipeline:
        """Fit a density to statistics (N, F)."""

    def _sigmas(self) -> list[float]:
        """The noise levels, ascending."""
        return [float(s) for s in log_sigmas(self.levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min).flip(0)]

    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        density = fitted(self.healthy, self)
        likelihood = density.score_samples(self.statistics(images, network).cpu().numpy())
        return -torch.from_numpy(likelihood).to(images)


@dataclass(frozen=True, kw_only=True)
class MSMA(ScoreStatistics):
    """Multiscale score matching analysis (Mahmood et al. 2021): norms of the score at several noise levels.

    The statistics are sigma ||score(x, sigma)|| = ||D(x, sigma) - x|| / sigma of the slice itself, without noise, at
    each level. Their density is a Gaussian mixture of 1, 2, 4, ... 16 components, the number by cross-validation (the
    paper searches 2 to 20).
    """

    def statistics(self, images: torch.Tensor, network: Denoiser) -> torch.Tensor:
        """Weighted score norms of slices (B, 1, H, W), one a level, float64 (B, levels)."""
        norms = [_noise(network, images, sigma).double().flatten(1).norm(dim=1) for sigma in self._sigmas()]
        return torch.stack(norms, dim=1)

    def _density(self, statistics: Values) -> Pipeline:
        return _mixture(statistics, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class DiffPath(ScoreStatistics):
    """Rate of change and curvature of the diffusion path (Heng et al. 2024).

    The slice is carried to ``sigma_max`` by DDIM run forward, x' = x + (sigma' - sigma) e with the noise estimate
    e = (x - D) / sigma. Six dimensions: sums over pixels and levels of e, e^2, e^3 and of de, de^2, de^3, where de is
    the change of e from level to level over that of time (here ln(sigma), from 0 to 1), with a Gaussian mixture. One
    dimension: the square root of the sum of de^2, with a kernel density estimate (bandwidth by Scott's rule; the paper
    fixes one for its own images).

    Attributes:
        dimensions: 6 or 1.
    """

    dimensions: Literal[6, 1] = 6
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimensions not in (6, 1) or self.levels < 2:
            raise InputError(
                f"dimensions, levels: got {self.dimensions} and {self.levels}, expected 6 or 1, and at least 2 levels"
            )

    def statistics(self, images: torch.Tensor, network: Denoiser) -> torch.Tensor:
        """Statistics of the paths of slices (B, 1, H, W), float64 (B, dimensions)."""
        x, sigmas = images, self._sigmas()
        noise = _noise(network, x, sigmas[0])
        path, curvature = _moments(noise), torch.zeros(len(x), 3, dtype=torch.float64, device=x.device)
        for sigma, sigma_next in pairwise(sigmas):
            x = x + (sigma_next - sigma) * noise
            before, noise = noise, _noise(network, x, sigma_next)
            path = path + _moments(noise)
            curvature = curvature + _moments((noise - before) * (self.levels - 1))
        return curvature[:, 1:2].sqrt() if self.dimensions == 1 else torch.cat([path, curvature], dim=1)

    def _density(self, statistics: Values) -> Pipeline:
        if self.dimensions == 6:
            return _mixture(statistics, seed=self.seed)
        return make_pipeline(StandardScaler(), KernelDensity(bandwidth="scott")).fit(statistics)


def _noise(network: Denoiser, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The noise that the prior sees in x: (x - D) / sigma = -sigma score, (B, 1, H, W)."""
    return (x - network(x, sigma)) / sigma


def _moments(values: torch.Tensor) -> torch.Tensor:
    """Sums of the first three powers of each slice's pixels, float64 (B, 3)."""
    flat = values.double().flatten(1)
    return torch.stack([flat.pow(power).sum(dim=1) for power in (1, 2, 3)], dim=1)


def _mixture(statistics: Values, *, seed: int) -> Pipeline:
    """Gaussian mixture of standardised statistics (N, F), with as many components as held-out likelihood favours."""
    affordable = len(statistics) * (_FOLDS - 1) // _FOLDS // (statistics.shape[1] + 1)
    components = [c for c in (1, 2, 4, 8, 16) if c <= max(1, affordable)]
    pipeline = Pipeline([("scale", StandardScaler()), ("mixture", GaussianMixture(random_state=seed, reg_covar=1e-4))])
    search = GridSearchCV(pipeline, {"mixture__n_components": components}, cv=_FOLDS)
    best: Pipeline = search.fit(statistics).best_estimator_
    return best
