"""KLIP as a MONAI inferer: standard slices in, KL density map out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from klip_monai.freed_memory import keep_freed_memory
from klip_monai.one_thread_each import one_after_the_other, one_thread_each
from klip_monai.physics import GaussianNoise, LinearOperator, Measurement, Noise
from klip_monai.prior import Denoiser, UNetDenoiser, log_sigmas
from klip_monai.prior.within_body import Box, InBoxes, boxes_of
from klip_monai.sampling import (
    Callback,
    ConjugateGradientPosterior,
    PosteriorSampler,
    Step,
    posterior_sample,
    prior_sample,
    renoise,
)
from klip_monai.scoring import AlongScan, KLAccumulator, Moves, SliceMoves, Window, over_twins, smooth
from klip_monai.slice_generator import SliceGenerator
from klip_monai.standard import slice_distance

ESTIMATORS = ("renoised", "trajectory")
NULLS = ("contrast", "context", "none")
Work = TypeVar("Work", torch.Tensor, SliceMoves)

_AIR = -1.0
_TOGETHER = 4  # slices that a core works on at a time: matrices of operators are read once for all of them
_ROWS = 8  # states of slices that pass the network together on a core; more are hardly faster


class KLIPInferer(Inferer):
    """Measures slices with an operator, samples the posterior and maps where it leaves the prior.

    For each batch of slices: y = A x + e; posterior samples x0 from y; the KL density of the window's noise levels,
    either along the sampler's own path (``trajectory``, the paper's estimator) or at x0 + sigma n for fresh n
    (``renoised``); Gaussian smoothing. One definition of the score serves both (see :mod:`klip_monai.scoring.density`).

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
        progress: called with (slices done, slices in all) after each batch.

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
        progress: Callable[[int, int], None] | None = None,
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
        self.batch_size, self.seed, self.progress = batch_size, seed, progress

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

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Denoiser,
        *args: Any,
        places: Sequence[int] | None = None,
        slice_mm: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map the KL density.

        Args:
            inputs: standard slices in [-1, 1], float32, as (B, 1, H, W) or stacked as (B, 1, H, W, Z).
            network: the prior.
            *args: ignored (MONAI's engines may pass more).
            places: index of each of (B, 1, H, W) in its volume, where slices are not those of one volume from the first
                on; they may come from several volumes, and each is read by itself.
            slice_mm: distance of neighbouring slices, mm. None: that of a MetaTensor (B, 1, H, W, Z), if its affine
                says so; other slices, and those of a tilted gantry, are read each by itself.
            **kwargs: ignored.

        Returns:
            Smoothed KL density, float32, nats per pixel (with twins: multiples of theirs), same shape as ``inputs``, or
            with two channels if ``sharp``; a MetaTensor stays one.
        """
        plain = inputs.as_subclass(torch.Tensor).float()
        if plain.ndim == 5:
            maps = torch.stack(
                [
                    self._maps(scan.movedim(-1, 0), network, slice_mm=apart).movedim(0, -1)
                    for scan, apart in zip(plain, _apart(inputs, slice_mm), strict=True)
                ]
            )
        else:
            maps = self._maps(plain, network, places=places, slice_mm=slice_mm)
        # Stays a MetaTensor, so that it can be inverted; nats would not fit the float16 that slices may come in.
        result: torch.Tensor = convert_to_dst_type(maps, inputs, dtype=maps.dtype)[0]
        return result

    def _maps(
        self,
        slices: torch.Tensor,
        network: Denoiser,
        *,
        places: Sequence[int] | None = None,
        slice_mm: float | None,
    ) -> torch.Tensor:
        """Smoothed map of (B, 1, H, W), some slices at a time; (B, 2, H, W) if ``sharp``."""
        if places is None and slice_mm is not None and (self.lowpass_z_mm or self.smoothing_z_mm):
            return self.maps(slices, network, slice_mm=[slice_mm])[0]
        maps = slices.new_zeros(len(slices), 1 + self.sharp, *slices.shape[2:])

        def score(images: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
            return smooth(self.map(images, network, generator=generator), sigma_px=self.smoothing_px)

        with self.batches(slices, score, places=places, any_number=_any_number(network)) as each:
            for members, scored in each:
                maps[members] = scored
        return maps

    def maps(self, slices: torch.Tensor, network: Denoiser, *, slice_mm: Sequence[float | None]) -> list[torch.Tensor]:
        """Smoothed maps of a scan's slices as they would be at several distances, for the passes of one.

        Args:
            slices: neighbouring standard slices, float32 (Z, 1, H, W) in [-1, 1].
            network: the prior.
            slice_mm: distances, mm; None reads each slice by itself.

        Returns:
            For each distance float32 (Z, 1, H, W), or (Z, 2, H, W) if ``sharp``, nats per pixel.
        """
        readings = [_Reading(self, slices, slice_mm=apart) for apart in slice_mm]

        def moves(images: torch.Tensor, generator: SliceGenerator) -> SliceMoves:
            return self.moves(images, network, generator=generator)

        with torch.inference_mode():
            for z in range(len(slices)):
                if not _shows_body(slices[z]):
                    for reading in readings:
                        reading.take(z, None)
            with self.batches(slices, moves, any_number=_any_number(network)) as each:
                for members, kept in each:
                    for row, z in enumerate(members):
                        for reading in readings:
                            reading.take(z, kept[row : row + 1])
        return [reading.maps for reading in readings]

    @contextmanager
    def batches(
        self,
        slices: torch.Tensor,
        work: Callable[[torch.Tensor, SliceGenerator], Work],
        *,
        places: Sequence[int] | None = None,
        any_number: bool = False,
    ) -> Iterator[Iterator[tuple[list[int], Work]]]:
        """Do a piece of work on some slices at a time: on a CPU side by side, each on a core of its own.

        Args:
            slices: standard slices, float32 (B, 1, H, W).
            work: called with N slices and the source of their randomness, without gradients; gives
                a tensor (N, ...) or `SliceMoves`.
            places: index of each slice in its volume; None: their order.
            any_number: the network adds in one order for any number of slices, as a U-Net in boxes does.

        Yields:
            Which slices, and what the work gave for them, as they are done. Slices of nothing but air are left out.
        """
        places = range(len(slices)) if places is None else places
        if len(places) != len(slices):
            raise ValueError(f"places: got {len(places)}, expected one for each of {len(slices)} slices")
        chosen = [n for n in range(len(slices)) if _shows_body(slices[n])]
        on_cpu = slices.device.type == "cpu"
        size = _TOGETHER if on_cpu else max(1, self.batch_size // self.samples)
        batches = [chosen[lo : lo + size] for lo in range(0, len(chosen), size)]

        in_boxes = any_number and self.operator.orthonormal and not self.twins and self.sampler is None

        def on_batch(batch: list[int]) -> Work:
            # Operators and networks add in another order for another number of slices, so on a CPU there are always as
            # many. In its boxes a U-Net does not, unless twins take it past them.
            filled = batch + batch[-1:] * (size - len(batch)) if on_cpu and not in_boxes else batch
            generator = SliceGenerator(self.seed, [places[n] for n in filled])
            # Both hold for their own thread only. Within an autocast, inner ones keep the weights that they have cast.
            with torch.inference_mode(), torch.autocast(slices.device.type, enabled=False):
                return work(slices[filled], generator)[: len(batch)]

        def results(each: Iterator[tuple[int, Work]]) -> Iterator[tuple[list[int], Work]]:
            done = len(slices) - len(chosen)
            for number, result in each:
                yield batches[number], result
                done += len(batches[number])
                if self.progress is not None:
                    self.progress(done, len(slices))

        with one_thread_each(on_batch, batches) if on_cpu else one_after_the_other(on_batch, batches) as each:
            yield results(each)

    def noise_left(self, slices: int, *, slice_mm: float | None) -> torch.Tensor:
        """Share of the noise's energy that the low-pass along a scan leaves in each slice, float32 (slices,)."""
        if slice_mm is None:
            return torch.ones(slices)
        return AlongScan(slices, slice_mm=slice_mm, sigma_mm=self.lowpass_z_mm).noise_left

    def map(self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator) -> torch.Tensor:
        """Density of one batch, over that of its twins if there are any; before smoothing.

        Args:
            images: standard slices, float32 (B, 1, H, W).
            network: the prior.
            generator: source of all randomness, with B slices.

        Returns:
            Float32 (B, 1, H, W), or (B, 2, H, W) if ``sharp``.
        """
        boxes = boxes_of(images, network, margin_px=self.body_margin_px)
        measurement = self.measure(images, generator=generator)
        return self.map_measurement(measurement, network, generator=generator, boxes=boxes)[0]

    def map_measurement(
        self,
        measurement: Measurement,
        network: Denoiser,
        *,
        generator: SliceGenerator,
        boxes: Sequence[Box] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like :meth:`map`, of slices that only a scanner has seen.

        Args:
            measurement: of B slices, in units of ``operator``; its own noise counts. Twins get the inferer's.
            network: the prior.
            generator: source of all randomness, with B slices.
            boxes: the parts of the slices that the network is to see; None: all.

        Returns:
            Float32 (B, 1, H, W), or (B, 2, H, W) if ``sharp``; and the posterior samples (B, S, H, W).
        """
        density, x0 = self.density_of_measurement(measurement, network, generator=generator, boxes=boxes)
        if not self.twins:
            return density, x0
        twins = [
            self.density(twin, network, generator=generator)[0] for twin in self._make_twins(x0, network, generator)
        ]
        return over_twins(density, torch.cat(twins, dim=1), smoothing_px=self.twin_smoothing_px), x0

    def _make_twins(self, x0: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> Iterator[torch.Tensor]:
        """In-distribution look-alikes of posterior samples (B, S, H, W), one batch (B, 1, H, W) after the other."""
        sigmas = self._twin_sigmas()
        for number in range(self.twins):
            start = x0[:, number % x0.shape[1]][:, None]
            noisy = start + sigmas[0] * generator.normal(start)
            twin = prior_sample(network, noisy, sigmas=sigmas, generator=generator, churn=self.churn)
            yield twin.clamp(-1, 1)

    def _twin_sigmas(self) -> list[float]:
        """Noise levels of a twin, spaced like the posterior sampler's."""
        share = math.log(self.twin_sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        levels = max(2, round(share * self.sampler_levels))
        return [float(s) for s in log_sigmas(levels, sigma_max=self.twin_sigma, sigma_min=self.sigma_min)]

    def score_measurement(self, measurement: Measurement, network: Denoiser) -> tuple[torch.Tensor, torch.Tensor]:
        """What calling the inferer gives, of slices that only a scanner has seen.

        Args:
            measurement: of B slices, in units of ``operator``.
            network: the prior.

        Returns:
            Smoothed map, float32 (B, 1, H, W), or (B, 2, H, W) if ``sharp``; and the posterior samples (B, S, H, W).
        """

        def score(measured: Measurement) -> tuple[torch.Tensor, torch.Tensor]:
            generator = SliceGenerator(self.seed, range(len(measured.y)))
            with torch.inference_mode(), torch.autocast(measured.y.device.type, enabled=False):
                maps, x0 = self.map_measurement(measured, network, generator=generator)
                return smooth(maps, sigma_px=self.smoothing_px), x0

        each_of = one_thread_each if measurement.y.device.type == "cpu" else one_after_the_other
        with each_of(score, [measurement]) as each:
            ((_, scored),) = each
        return scored

    def with_operator(self, operator: LinearOperator, *, noise: Noise, cg_iterations: int | None = None) -> KLIPInferer:
        """The same settings with another measurement, whose data it also makes; None keeps the iterations."""
        iterations = self.cg_iterations if cg_iterations is None else cg_iterations
        return self.changed(operator=operator, noise=noise, data_operator=None, cg_iterations=iterations)

    def changed(self, **settings: Any) -> KLIPInferer:
        """The same inferer with some settings changed, which have the names that it is made with.

        Raises:
            TypeError: for a setting that there is not.
            ValueError: for an impossible one.
        """
        return KLIPInferer(**self._given | settings)

    def measure(self, images: torch.Tensor, *, generator: SliceGenerator) -> Measurement:
        """Measure standard slices, float32 (B, 1, H, W), with noise, by ``data_operator`` if there is one."""
        if self.data_operator is None:
            y = self.operator.A(images)
        else:
            y = self.data_operator.A(images) * (self.operator.scale / self.data_operator.scale)
        return self.noise.apply(y, images=images, operator=self.operator, generator=generator)

    def density(
        self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator, tap: Callback | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL density of one batch of slices, float32 (B, 1 or 2, H, W); the rest as :meth:`density_of_measurement`."""
        boxes = boxes_of(images, network, margin_px=self.body_margin_px)
        measurement = self.measure(images, generator=generator)
        return self.density_of_measurement(measurement, network, generator=generator, tap=tap, boxes=boxes)

    def density_of_measurement(
        self,
        measurement: Measurement,
        network: Denoiser,
        *,
        generator: SliceGenerator,
        tap: Callback | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL density of B slices that were measured, before smoothing.

        Args:
            measurement: y (B, *range_shape), in units of ``operator``, and the standard deviation of its noise.
            network: the prior.
            generator: source of all randomness, with B slices.
            tap: additionally receives every step that the estimator uses (slices x samples as the batch).
            boxes: the parts of the slices that the network is to see; None: all. Another ``sampler`` sees all.

        Returns:
            Density, float32 (B, 1, H, W), or (B, 2, H, W) if ``sharp``, nats per pixel, mean over samples; and the
            posterior samples (B, S, H, W).
        """
        lowpass = [self.lowpass_px, *[0.0] * self.sharp]
        accumulators = [self._accumulator(width) for width in lowpass]
        taps: list[Callback] = [*accumulators] if tap is None else [*accumulators, tap]
        x0 = self._run(measurement, network, generator=generator, taps=taps, boxes=boxes)
        density = torch.cat([accumulator.density(draws=self._draws) for accumulator in accumulators], dim=1)
        return density.unflatten(0, (-1, self.samples)).mean(dim=1).clamp_min(0), x0

    def moves(self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator) -> SliceMoves:
        """What :meth:`map` is made from, before anything is squared; arguments as there."""
        own, x0 = self._moves(images, network, generator=generator)
        twins = self._make_twins(x0, network, generator) if self.twins else ()
        return own.beside([self._moves(twin, network, generator=generator)[0] for twin in twins])

    def _moves(
        self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator
    ) -> tuple[SliceMoves, torch.Tensor]:
        """The moves of one run, and its posterior samples (B, S, H, W)."""
        recorder = Moves(self.window, lowpass_px=self.lowpass_px, noise_px=self.noise_px)
        sharp = self._accumulator(0.0) if self.sharp else None
        x0 = self._run(
            self.measure(images, generator=generator),
            network,
            generator=generator,
            taps=[recorder] if sharp is None else [recorder, sharp],
            boxes=boxes_of(images, network, margin_px=self.body_margin_px),
        )
        moves = recorder.of_slices(samples=self.samples, draws=self._draws)
        if sharp is None:
            return moves, x0
        density = sharp.density(draws=self._draws).unflatten(0, (-1, self.samples)).mean(dim=1).clamp_min(0)
        return replace(moves, sharp=density), x0

    def _accumulator(self, lowpass_px: float) -> KLAccumulator:
        return KLAccumulator(self.window, lowpass_px=lowpass_px, noise_px=self.noise_px)

    @property
    def _draws(self) -> int:
        """Passes over the window's levels whose steps are reported."""
        return self.draws if self.estimator == "renoised" else 1

    def _run(
        self,
        measurement: Measurement,
        network: Denoiser,
        *,
        generator: SliceGenerator,
        taps: Sequence[Callback],
        boxes: Sequence[Box] | None,
    ) -> torch.Tensor:
        """Sample the posterior of B slices and report every step that the estimator uses; the samples (B, S, H, W)."""
        keep_freed_memory()
        y, std = measurement.y.repeat_interleave(self.samples, dim=0), measurement.std
        if isinstance(std, torch.Tensor):
            std = std.expand_as(measurement.y).repeat_interleave(self.samples, dim=0)
        boxes = boxes or [Box(0, 0, *self.operator.image_shape)] * len(measurement.y)
        rows = _ROWS if y.device.type == "cpu" else self.batch_size
        posterior = ConjugateGradientPosterior(
            InBoxes(network, boxes, rows=rows),
            self.operator,
            y,
            noise_std=std,
            data_std=self.data_std,
            iterations=self.cg_iterations,
        )

        def report(step: Step) -> None:
            for tap in taps:
                tap(step)

        generator = generator.repeated(self.samples)
        renoised = self.estimator == "renoised"
        on_path = None if renoised else report
        x0 = self.operator.A_dagger(y, iterations=self.cg_iterations)
        if self.sampler is not None:
            x0 = self.sampler.sample(network, self.operator, y, x0, generator=generator, callback=on_path)
        elif self.sampler_levels:
            x = x0 + self.sigma_max * generator.normal(x0)
            sigmas = log_sigmas(self.sampler_levels, sigma_max=self.sigma_max, sigma_min=self.sigma_min).tolist()
            x0 = posterior_sample(posterior, x, sigmas=sigmas, generator=generator, churn=self.churn, callback=on_path)
        if renoised:
            for _ in range(self.draws):
                renoise(posterior, x0, sigmas=self.edges, generator=generator, callback=report, crossed=self.crossed)
        return x0.unflatten(0, (len(measurement.y), self.samples))[:, :, 0]


class _Reading:
    """The map of a scan, made from the moves of its slices as they come."""

    def __init__(self, inferer: KLIPInferer, slices: torch.Tensor, *, slice_mm: float | None) -> None:
        self._inferer = inferer
        self.maps = slices.new_zeros(len(slices), 1 + inferer.sharp, *slices.shape[2:])
        sigmas = (inferer.lowpass_z_mm, inferer.smoothing_z_mm) if slice_mm else (0.0, 0.0)
        self._moves, self._smoothed = (
            AlongScan(len(slices), slice_mm=slice_mm or 1.0, sigma_mm=sigma) for sigma in sigmas
        )

    def take(self, z: int, kept: SliceMoves | None) -> None:
        """Take the moves of a slice, None for one of air, and make the maps that this was the last missing for."""
        if kept is not None and kept.sharp is not None:
            self.maps[z, 1:] = kept.sharp[0]
        for ready, mean in self._moves(z, None if kept is None else kept.values[0]):
            for done, smoothed in self._smoothed(ready, None if mean is None else self._read(ready, mean, kept)):
                if smoothed is not None:
                    self.maps[done] = smoothed

    def _read(self, z: int, mean: torch.Tensor, like: SliceMoves | None) -> torch.Tensor:
        """The map of a slice, smoothed in the plane, (1 or 2, H, W), from moves (R, N, C, h, w)."""
        assert like is not None  # the last slice to come had something in it
        one = self._inferer
        near = replace(like, values=mean[None], sharp=self.maps[z, None, 1:] if one.sharp else None)
        return smooth(near.map(twin_smoothing_px=one.twin_smoothing_px), sigma_px=one.smoothing_px)[0]


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


def _apart(stacked: torch.Tensor, slice_mm: float | None) -> list[float | None]:
    """Distance of the slices of each of (B, 1, H, W, Z): the one that is given, or what a MetaTensor says."""
    if slice_mm is not None or not isinstance(stacked, MetaTensor):
        return [slice_mm] * len(stacked)
    affines = stacked.affine.reshape(-1, 4, 4)
    return [slice_distance(affine.cpu().numpy()) for affine in affines.expand(len(stacked), 4, 4)]


def _shows_body(image: torch.Tensor) -> bool:
    """Whether a standard slice (1, H, W) shows anything but air."""
    return bool((image > _AIR).any())


def _any_number(network: Denoiser) -> bool:
    """Whether a prior in its boxes adds in one order for any number of slices: a U-Net does, and what is no network."""
    return isinstance(network, UNetDenoiser) or not isinstance(network, torch.nn.Module)
