"""How the posterior is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from klip_monai.prior import log_sigmas
from klip_monai.sampling import PosteriorSampler
from klip_monai.scoring import Window
from klip_monai.settings.checks import at_least, check_kinds
from klip_monai.settings.levels import Levels, levels_for, levels_of


@dataclass(frozen=True)
class Sampling:
    """How the posterior is sampled.

    Attributes:
        samples: posterior samples per slice, averaged.
        sampler: another posterior sampler than the fast one that the next four settings belong to, such as
            :class:`klip_monai.sampling.PredictorCorrector`. ``trajectory`` then scores along its path.
        sampler_levels: noise levels of the posterior sampler, log-spaced from ``sigma_max`` to ``sigma_min``. 0 takes
            the least-squares image for the posterior sample (``renoised`` only): right where the measurement leaves
            nothing open, as the identity does, and far cheaper. Or :class:`Levels`.
        sigma_max: the sampler starts from the least-squares image plus noise of this level.
        sigma_min: lowest noise level of the sampler.
        churn: fresh noise in the sampler, 0 (DDIM) to 1 (ancestral).
        data_std: standard deviation s assumed by the posterior denoiser.
        cg_iterations: conjugate-gradient steps per posterior denoising. 5 do for white noise; noise that differs from
            ray to ray, as that of photons does, needs about 20.
        body_margin_px: air around the body that the network still sees, in pixels of the prior's grid; what lies
            farther out costs no arithmetic. For priors that were trained on such boxes: one that has seen whole slices
            only takes their edges for anatomy. None lets it see whole slices, as a network that takes nothing else does
            anyway.

    Raises:
        ValueError: for what is out of these ranges or of another kind, as less than one sample.
    """

    samples: int = 1
    sampler: PosteriorSampler | None = None
    sampler_levels: int | Levels | Mapping[str, Any] = 40
    sigma_max: float = 3.0
    sigma_min: float = 0.02
    churn: float = 1.0
    data_std: float = 0.5
    cg_iterations: int = 5
    body_margin_px: int | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        at_least(1, samples=self.samples, cg_iterations=self.cg_iterations)
        if not isinstance(self.sampler, PosteriorSampler | None):
            raise ValueError(f"sampler: got {self.sampler!r}, expected a sampler of klip_monai.sampling")
        if not 0 <= self.churn <= 1:
            raise ValueError(f"churn: got {self.churn}, expected 0 (DDIM) to 1 (ancestral)")
        if not self.data_std > 0:
            raise ValueError(f"data_std: got {self.data_std}, expected a standard deviation above 0")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min: got {self.sigma_min}, expected above 0 and below {self.sigma_max}, sigma_max")
        at_least(0, body_margin_px=self.body_margin_px or 0)
        object.__setattr__(self, "sampler_levels", levels_of(self.sampler_levels))

    @property
    def visited(self) -> Window:
        """The noise levels that the sampler passes through."""
        if self.sampler is not None:
            return Window(self.sampler.sigma_max, self.sampler.sigma_min)
        return Window(self.sigma_max, self.sigma_min)

    def settled(self, purpose: str) -> Sampling:
        """With the levels for a purpose, an attribute of :class:`Levels`."""
        levels = levels_for(purpose, self.sampler_levels)
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 0:
            raise ValueError(f"sampler_levels: got {levels!r}, expected how many")
        return replace(self, sampler_levels=levels)

    @property
    def sigmas(self) -> list[float]:
        """Descending noise levels of the fast sampler, once settled."""
        assert isinstance(self.sampler_levels, int)
        return [float(s) for s in log_sigmas(self.sampler_levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min)]

    @property
    def passes(self) -> int:
        """NFE of one sample, once levels are settled."""
        assert isinstance(self.sampler_levels, int)
        return self.sampler_levels if self.sampler is None else self.sampler.passes

    def describe(self) -> dict[str, Any]:
        """JSON-able, once levels are settled."""
        own = {"samples": self.samples, "data_std": self.data_std, "cg_iterations": self.cg_iterations}
        if self.body_margin_px is not None:
            own["body_margin_px"] = self.body_margin_px
        if self.sampler is not None:
            return own | {"sampler": self.sampler.describe()}
        return own | {name: getattr(self, name) for name in ("sampler_levels", "sigma_max", "sigma_min", "churn")}
