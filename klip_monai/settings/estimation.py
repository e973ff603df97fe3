"""How the divergence of the posterior from the prior is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from klip_monai.prior import log_sigmas
from klip_monai.scoring import Window
from klip_monai.settings.checks import at_least, check_kinds
from klip_monai.settings.levels import Levels, WindowLevels, levels_for, levels_of
from klip_monai.settings.sampling import Sampling

ESTIMATORS = ("renoised", "trajectory")


@dataclass(frozen=True)
class Estimation:
    """How the divergence of the posterior from the prior is taken.

    Attributes:
        estimator: "renoised" or "trajectory".
        window: (high, low) noise levels that count, in units of the [-1, 1] image; None counts all that are visited.
        window_levels: intervals that the window is divided into (``renoised`` only): how many, evenly spaced in
            ln(sigma), or the noise levels between them, descending. Or :class:`Levels`.
        draws: passes over the window's levels per posterior sample (``renoised``), averaged.
        crossed: takes (x0 - D) (D_y - D) for the square of the move (``renoised`` only), which keeps the streaks of few
            views out of the density (see :class:`klip_monai.scoring.KLAccumulator`). Where its sum is negative, as in
            pixels that hardly move, the density is 0. Without posterior samples nothing is crossed.

    Raises:
        ValueError: for an unknown estimator or less than one draw.
    """

    estimator: Literal["renoised", "trajectory"] = "renoised"
    window: tuple[float, float] | None = (1.0, 0.085)
    window_levels: WindowLevels | Levels | Mapping[str, Any] = 15
    draws: int = 1
    crossed: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator: got {self.estimator!r}, expected one of {', '.join(ESTIMATORS)}")
        at_least(1, draws=self.draws)
        if self.window is not None:
            object.__setattr__(self, "window", _two_levels(self.window))
        levels = levels_of(self.window_levels)
        if not isinstance(levels, int | Levels):
            levels = [float(s) for s in levels]
        object.__setattr__(self, "window_levels", levels)

    def settled(self, purpose: str, sampling: Sampling) -> Estimation:
        """With the levels for a purpose, the window where there is none, and nothing crossed that cannot be."""
        visited = sampling.visited
        levels = levels_for(purpose, self.window_levels)
        at_least(1, window_levels=levels if isinstance(levels, int) else len(levels) + 1)
        # The least-squares image is no posterior sample that D_y could be the mean of.
        crossed = self.crossed and (sampling.sampler is not None or sampling.passes > 0)
        window = self.window or (visited.high, visited.low)
        return replace(self, window=window, window_levels=levels, crossed=crossed)

    @property
    def range(self) -> Window:
        """The window, once settled."""
        assert self.window is not None
        return Window(*self.window)

    @property
    def edges(self) -> list[float]:
        """Descending edges of the window's intervals, once settled."""
        window, levels = self.range, self.window_levels
        assert not isinstance(levels, Levels | Mapping)
        if isinstance(levels, int):
            return [float(s) for s in log_sigmas(levels + 1, sigma_max=window.high, sigma_min=window.low)]
        edges = [window.high, *levels, window.low]
        if any(upper <= lower for upper, lower in pairwise(edges)):
            raise ValueError(
                f"window_levels: got {list(levels)}, expected descending levels within {edges[0]} to {edges[-1]}"
            )
        return edges

    @property
    def reported(self) -> int:
        """Passes over the window's levels whose steps are reported."""
        return self.draws if self.estimator == "renoised" else 1

    @property
    def passes(self) -> int:
        """NFE of one sample, once settled."""
        return (len(self.edges) - 1) * self.draws if self.estimator == "renoised" else 0

    def describe(self) -> dict[str, Any]:
        """JSON-able, once settled."""
        own: dict[str, Any] = {"estimator": self.estimator, "window": asdict(self.range)}
        if self.estimator == "renoised":
            own |= {"window_levels": self.window_levels, "draws": self.draws}
            own |= {"crossed": True} if self.crossed else {}
        return own


def _two_levels(given: Any) -> tuple[float, float]:
    try:
        high, low = map(float, given)
        Window(high, low)  # refuses what is none
    except (TypeError, ValueError):
        raise ValueError(f"window: got {given!r}, expected two noise levels, the higher one first") from None
    return high, low
