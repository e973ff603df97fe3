"""What KLIP is run with: the settings of an inferer, checked, and how they are written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from itertools import pairwise
from typing import Any, Literal

from klip_monai.physics import GaussianNoise, LinearOperator, Noise
from klip_monai.prior import log_sigmas
from klip_monai.sampling import PosteriorSampler
from klip_monai.scoring import Window

ESTIMATORS = ("renoised", "trajectory")
NULLS = ("contrast", "context", "none")


class InfererSettings:
    """What :class:`klip_monai.inferer.KLIPInferer` is made with.

    Args:
        operator: A, scaled to unit spectral norm.
        estimator: "renoised" or "trajectory".
        window: (high, low) noise levels that count, in units of the [-1, 1] image; None counts all that are visited.
        window_levels: intervals that the window is divided into (``renoised`` only): how many, evenly spaced in
            ln(sigma), or the noise levels between them, descending.
        draws: passes over the window's levels per posterior sample (``renoised``), averaged.
        crossed: takes (x0 - D) (D_y - D) for the square of the move (``renoised`` only), which keeps the streaks of few
            views out of the density (see :class:`klip_monai.scoring.KLAccumulator`). Where its sum is negative, as in
            pixels that hardly move, the density is 0. Without posterior samples (``sampler_levels`` 0) nothing is
            crossed.
        samples: posterior samples per slice, averaged.
        sampler: another posterior sampler than the fast one that the next four settings belong to, such as
            :class:`klip_monai.sampling.PredictorCorrector`. ``trajectory`` then scores along its path.
        sampler_levels: noise levels of the posterior sampler, log-spaced from ``sigma_max`` to ``sigma_min``. 0 takes
            the least-squares image for the posterior sample (``renoised`` only): right where the measurement leaves
            nothing open, as the identity does, and far cheaper.
        sigma_max: the sampler starts from the least-squares image plus noise of this level.
        sigma_min: lowest noise level of the sampler.
        churn: fresh noise in the sampler, 0 (DDIM) to 1 (ancestral).
        noise_std: standard deviation sy of the measurement noise e, in units of y (A has unit spectral norm); white.
        noise: other noise instead, such as :class:`klip_monai.physics.PoissonNoise`.
        data_operator: makes the data in place of ``operator``, which still reconstructs them (a mismatch, as real
            scanners have): same slices and shape of y, and the same physical units before scaling. None: ``operator``.
        data_std: standard deviation s assumed by the posterior denoiser.
        cg_iterations: conjugate-gradient steps per posterior denoising. 5 do for white noise; noise that differs from
            ray to ray, as that of photons does, needs about 20.
        lowpass_px: restricts the density to structures wider than this Gaussian, in pixels of the prior's grid (see
            :class:`klip_monai.scoring.KLAccumulator`); 0 counts all.
        noise_px: neighbourhood over which what the drawn noise explains of a move is spread, in pixels of the prior's
            grid, so that few levels tell as much as many (``renoised`` only, see
            :class:`klip_monai.scoring.KLAccumulator`); 0 leaves it where it fell.
        smoothing_px: Gaussian smoothing of the density, in pixels of the prior's grid.
        lowpass_z_mm: restricts the density to structures wider than this Gaussian along the scan too, mm, where the
            distance of its slices is known (see :mod:`klip_monai.scoring.moves`); 0 reads each slice by itself.
        smoothing_z_mm: Gaussian smoothing of the density along the scan, mm, likewise.
        calibration: how strongly an ID reference is to calibrate the map, 0 (not) to 1 (fully), by what healthy tissue
            scores there. The inferer's own map is not calibrated.
        null: what says that: "contrast", healthy tissue of the same local contrast (see
            :class:`klip_monai.scoring.ExpectedDensity`); "context", of the same surroundings without the place itself
            too (see :class:`klip_monai.scoring.ContextNull`); "none" leaves maps as they are, like a calibration of 0.
        skin_px: rim of the body that heat maps and scores leave out, in pixels of the prior's grid: skin folds, the
            navel and what lies on the skin differ from person to person, and no organ lies there. The inferer's own map
            has it.
        sharp: gives the density of all spatial frequencies too, as a second channel. Calibrated heat maps are the
            larger of both, so that bright things with sharp edges, which low-pass and calibration play down, stand out
            as well. It costs no pass.
        twins: look-alikes that the prior makes of each slice; the density is then given in multiples of theirs (see
            :func:`klip_monai.scoring.over_twins`). 0 gives the density itself. Each one costs a run of its own.
        twin_sigma: noise level from which the prior makes a twin: the lower, the more it keeps of the slice.
        twin_smoothing_px: Gaussian smoothing of the twins' mean density, in pixels of the prior's grid.
        body_margin_px: air around the body that the network still sees, in pixels of the prior's grid; what lies
            farther out costs no arithmetic. For priors that were trained on such boxes: one that has seen whole slices
            only takes their edges for anatomy. None lets it see whole slices, as a network that takes nothing else does
            anyway.
        batch_size: slices times samples that are worked on together on a GPU. A CPU always works on few, each thread on
            its own, so that maps do not depend on the batch.
        seed: of measurement noise and sampling. The noise of a slice follows from it and from the slice's place in its
            volume: the same seed, weights, precision and device give the same map, on a CPU to the last bit whatever
            else is scored and with however many threads.

    Raises:
        ValueError: for an unknown estimator or an impossible setting.
    """

    def __init__(
        self,
        operator: LinearOperator,
        *,
        estimator: Literal["renoised", "trajectory"] = "renoised",
        window: tuple[float, float] | None = (1.0, 0.085),
        window_levels: int | Sequence[float] = 15,
        draws: int = 1,
        crossed: bool = False,
        samples: int = 1,
        sampler: PosteriorSampler | None = None,
        sampler_levels: int = 40,
        sigma_max: float = 3.0,
        sigma_min: float = 0.02,
        churn: float = 1.0,
        noise_std: float = 0.003,
        noise: Noise | None = None,
        data_operator: LinearOperator | None = None,
        data_std: float = 0.5,
        cg_iterations: int = 5,
        lowpass_px: float = 1.0,
        noise_px: float = 0.0,
        smoothing_px: float = 1.5,
        lowpass_z_mm: float = 0.0,
        smoothing_z_mm: float = 0.0,
        calibration: float = 1.0,
        null: Literal["contrast", "context", "none"] = "contrast",
        skin_px: float = 0.0,
        sharp: bool = False,
        twins: int = 0,
        twin_sigma: float = 1.0,
        twin_smoothing_px: float = 1.5,
        body_margin_px: int | None = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self._given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator: got {estimator!r}, expected one of {', '.join(ESTIMATORS)}")
        intervals = window_levels if isinstance(window_levels, int) else len(window_levels) + 1
        if min(intervals, draws, samples, batch_size) < 1:
            raise ValueError("window_levels, draws, samples and batch_size: expected at least 1 each")
        if sampler_levels < (1 if estimator == "trajectory" or twins else 0):
            raise ValueError(
                f"sampler_levels: got {sampler_levels}, expected at least 1, or 0 for renoised without twins"
            )
        self.operator, self.estimator, self.sampler = operator, estimator, sampler
        visited = (sampler.sigma_max, sampler.sigma_min) if sampler is not None else (sigma_max, sigma_min)
        self.window = Window(*(visited if window is None else window))
        self.window_levels = window_levels if isinstance(window_levels, int) else [float(s) for s in window_levels]
        self.edges = _edges(self.window, self.window_levels)
        self.draws, self.samples = draws, samples
        # The least-squares image is no posterior sample that D_y could be the mean of.
        self.crossed = crossed and (sampler is not None or sampler_levels > 0)
        self.sampler_levels, self.sigma_max, self.sigma_min, self.churn = sampler_levels, sigma_max, sigma_min, churn
        self.noise: Noise = GaussianNoise(noise_std) if noise is None else noise
        self.data_operator = data_operator
        if data_operator is not None:
            shapes = [(one.image_shape, one.range_shape) for one in (data_operator, operator)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"data_operator: got slices and measurements {shapes[0]}, expected {shapes[1]}")
        self.data_std, self.cg_iterations = data_std, cg_iterations
        if twins < 0 or not sigma_min < twin_sigma:
            raise ValueError(
                f"twins, twin_sigma: got {twins} and {twin_sigma}, expected 0 or more and a level above {sigma_min}"
            )
        if twins and sharp:
            raise ValueError(f"sharp: got it with {twins} twins, expected one of the two")
        if not 0 <= calibration <= 1:
            raise ValueError(f"calibration: got {calibration}, expected 0 (none) to 1 (full)")
        widths = {"skin_px": skin_px, "noise_px": noise_px, "body_margin_px": body_margin_px or 0}
        for name, width in (widths | {"lowpass_z_mm": lowpass_z_mm, "smoothing_z_mm": smoothing_z_mm}).items():
            if width < 0:
                raise ValueError(f"{name}: got {width}, expected 0 or more")
        if null not in NULLS:
            raise ValueError(f"null: got {null!r}, expected one of {', '.join(NULLS)}")
        self.null = null
        self.lowpass_px, self.smoothing_px = lowpass_px, smoothing_px
        self.calibration = 0.0 if null == "none" else float(calibration)
        self.lowpass_z_mm, self.smoothing_z_mm = float(lowpass_z_mm), float(smoothing_z_mm)
        self.skin_px, self.sharp = float(skin_px), sharp
        self.noise_px, self.body_margin_px = float(noise_px), body_margin_px
        self.twins, self.twin_sigma, self.twin_smoothing_px = twins, twin_sigma, twin_smoothing_px
        self.batch_size, self.seed = batch_size, seed

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        renoised = (len(self.edges) - 1) * self.draws if self.estimator == "renoised" else 0
        sampling = self.sampler_levels if self.sampler is None else self.sampler.passes
        run = self.samples * (sampling + renoised)
        return run + self.twins * (run + len(self._twin_sigmas()))

    def describe(self) -> dict[str, Any]:
        """All settings that a score depends on, JSON-able; the seed and the batch size are not among them."""
        names = ["estimator", "samples", "sampler_levels", "sigma_max", "sigma_min", "churn"]
        names += ["data_std", "cg_iterations", "lowpass_px", "smoothing_px", "calibration"]
        if self.estimator == "renoised":
            names += ["window_levels", "draws", *["crossed"] * self.crossed, *["noise_px"] * bool(self.noise_px)]
        names += ["twins", "twin_sigma", "twin_smoothing_px"] if self.twins else []
        names += [name for name in ("lowpass_z_mm", "smoothing_z_mm", "skin_px") if getattr(self, name)]
        names += ["sharp"] if self.sharp else []
        names += ["null"] if self.null == "context" else []
        names += ["body_margin_px"] if self.body_margin_px is not None else []
        described = {"operator": self.operator.describe(), "window": asdict(self.window), **self.noise.describe()}
        if self.data_operator is not None:
            described["data_operator"] = self.data_operator.describe()
        if self.sampler is not None:
            described["sampler"] = self.sampler.describe()
            names = [name for name in names if name not in ("sampler_levels", "sigma_max", "sigma_min", "churn")]
        return described | {name: getattr(self, name) for name in names}

    def _twin_sigmas(self) -> list[float]:
        """Noise levels of a twin, spaced like the posterior sampler's."""
        share = math.log(self.twin_sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        levels = max(2, round(share * self.sampler_levels))
        return [float(s) for s in log_sigmas(levels, sigma_max=self.twin_sigma, sigma_min=self.sigma_min)]


SETTINGS = tuple(name for name in signature(InfererSettings.__init__).parameters if name not in ("self", "operator"))
"""Names of all settings but the operator."""


def _edges(window: Window, levels: int | Sequence[float]) -> list[float]:
    """Descending edges of the window's intervals; see ``window_levels``."""
    if isinstance(levels, int):
        return log_sigmas(levels + 1, sigma_max=window.high, sigma_min=window.low).tolist()
    edges = [window.high, *levels, window.low]
    if any(upper <= lower for upper, lower in pairwise(edges)):
        raise ValueError(
            f"window_levels: got {list(levels)}, expected descending levels within {edges[0]} to {edges[-1]}"
        )
    return edges
