"""Look-alikes that the prior makes of each slice."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from klip_monai.prior import log_sigmas
from klip_monai.settings.checks import at_least, check_kinds
from klip_monai.settings.sampling import Sampling


@dataclass(frozen=True)
class Twins:
    """Look-alikes that the prior makes of each slice; each one costs a run of its own.

    Attributes:
        twins: how many. The density is then given in multiples of theirs (see
            :func:`klip_monai.scoring.over_twins`); 0 gives the density itself.
        twin_sigma: noise level from which the prior makes a twin: the lower, the more it keeps of the slice.
        twin_smoothing_px: Gaussian smoothing of the twins' mean density, in pixels of the prior's grid.

    Raises:
        ValueError: for less than none.
    """

    twins: int = 0
    twin_sigma: float = 1.0
    twin_smoothing_px: float = 1.5

    def __post_init__(self) -> None:
        check_kinds(self)
        at_least(0, twins=self.twins, twin_smoothing_px=self.twin_smoothing_px)

    def sigmas(self, sampling: Sampling) -> list[float]:
        """Noise levels of a twin, spaced like the posterior sampler's."""
        share = math.log(self.twin_sigma / sampling.sigma_min) / math.log(sampling.sigma_max / sampling.sigma_min)
        levels = max(2, round(share * sampling.passes))
        return [float(s) for s in log_sigmas(levels, sigma_max=self.twin_sigma, sigma_min=sampling.sigma_min)]

    def describe(self) -> dict[str, Any]:
        """JSON-able; nothing without twins."""
        return asdict(self) if self.twins else {}
