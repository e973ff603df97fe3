"""KLIP as a MONAI inferer: standard slices in, KL density map out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from klip_monai.freed_memory import keep_freed_memory
from klip_monai.inferer_settings import ESTIMATORS, NULLS, InfererSettings
from klip_monai.one_thread_each import one_after_the_other, one_thread_each
from klip_monai.physics import LinearOperator, Measurement, Noise
from klip_monai.prior import Denoiser, log_sigmas
from klip_monai.prior.within_body import Box, InBoxes, boxes_of
from klip_monai.sampling import Callback, ConjugateGradientPosterior, Step, posterior_sample, prior_sample, renoise
from klip_monai.scan_reading import ScanReading, distances_of
from klip_monai.scoring import AlongScan, KLAccumulator, Moves, SliceMoves, over_twins, smooth
from klip_monai.scoring.moves import check_slice_mm
from klip_monai.slice_batches import Progress, Work, adds_in_one_order, in_batches, shows_body
from klip_monai.slice_generator import SliceGenerator

__all__ = ["ESTIMATORS", "NULLS", "KLIPInferer", "Work"]

_ROWS = 8  # states of slices that pass the network together on a core; more are hardly faster


class KLIPInferer(InfererSettings, Inferer):
    """Measures slices with an operator, samples the posterior and maps where it leaves the prior.

    For each batch of slices: y = A x + e; posterior samples x0 from y; the KL density of the window's noise levels,
    either along the sampler's own path (``trajectory``, the paper's estimator) or at x0 + sigma n for fresh n
    (``renoised``); Gaussian smoothing. One definition of the score serves both (see :mod:`klip_monai.scoring.density`).

    Args:
        See :class:`klip_monai.inferer_settings.InfererSettings`.
    """

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Denoiser,
        *args: Any,
        places: Sequence[int] | None = None,
        slice_mm: float | None = None,
        progress: Progress | None = None,
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
            progress: called with (slices done, slices in all) after some slices each.
            **kwargs: ignored.

        Returns:
            Smoothed KL density, float32, nats per pixel (with twins: multiples of theirs), same shape as ``inputs``, or
            with two channels if ``sharp``; a MetaTensor stays one.

        Raises:
            ValueError: for a ``slice_mm`` that is no distance.
        """
        if slice_mm is not None:
            check_slice_mm(slice_mm)
        plain = inputs.as_subclass(torch.Tensor).float()
        if plain.ndim == 5:
            maps = torch.stack(
                [
                    self._maps(scan.movedim(-1, 0), network, slice_mm=apart, progress=progress).movedim(0, -1)
                    for scan, apart in zip(plain, distances_of(inputs, slice_mm), strict=True)
                ]
            )
        else:
            maps = self._maps(plain, network, places=places, slice_mm=slice_mm, progress=progress)
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
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Smoothed map of (B, 1, H, W), some slices at a time; (B, 2, H, W) if ``sharp``."""
        if places is None and slice_mm is not None and (self.lowpass_z_mm or self.smoothing_z_mm):
            return self.maps(slices, network, slice_mm=[slice_mm], progress=progress)[0]
        maps = slices.new_zeros(len(slices), 1 + self.sharp, *slices.shape[2:])

        def score(images: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
            return smooth(self.map(images, network, generator=generator), sigma_px=self.smoothing_px)

        any_number = adds_in_one_order(network)
        with self.batches(slices, score, places=places, any_number=any_number, progress=progress) as each:
            for members, scored in each:
                maps[members] = scored
        return maps

    def maps(
        self,
        slices: torch.Tensor,
        network: Denoiser,
        *,
        slice_mm: Sequence[float | None],
        progress: Progress | None = None,
    ) -> list[torch.Tensor]:
        """Smoothed maps of a scan's slices as they would be at several distances, for the passes of one.

        Args:
            slices: neighbouring standard slices, float32 (Z, 1, H, W) in [-1, 1].
            network: the prior.
            slice_mm: distances, mm; None reads each slice by itself.
            progress: called with (slices done, slices in all) after some slices each.

        Returns:
            For each distance float32 (Z, 1, H, W), or (Z, 2, H, W) if ``sharp``, nats per pixel.

        Raises:
            ValueError: for a distance that is none.
        """
        for apart in slice_mm:
            if apart is not None:
                check_slice_mm(apart)
        readings = [
            ScanReading(
                slices,
                slice_mm=apart,
                lowpass_z_mm=self.lowpass_z_mm,
                smoothing_z_mm=self.smoothing_z_mm,
                smoothing_px=self.smoothing_px,
                twin_smoothing_px=self.twin_smoothing_px,
                sharp=self.sharp,
            )
            for apart in slice_mm
        ]

        def moves(images: torch.Tensor, generator: SliceGenerator) -> SliceMoves:
            return self.moves(images, network, generator=generator)

        with torch.inference_mode():
            for z in range(len(slices)):
                if not shows_body(slices[z]):
                    for reading in readings:
                        reading.take(z, None)
            with self.batches(slices, moves, any_number=adds_in_one_order(network), progress=progress) as each:
                for members, kept in each:
                    for row, z in enumerate(members):
                        for reading in readings:
                            reading.take(z, kept[row : row + 1])
        return [reading.maps for reading in readings]

    def batches(
        self,
        slices: torch.Tensor,
        work: Callable[[torch.Tensor, SliceGenerator], Work],
        *,
        places: Sequence[int] | None = None,
        any_number: bool = False,
        progress: Progress | None = None,
    ) -> AbstractContextManager[Iterator[tuple[list[int], Work]]]:
        """Do a piece of work on some slices at a time: on a CPU side by side, each on a core of its own.

        Args:
            slices: standard slices, float32 (B, 1, H, W).
            work: called with N slices and the source of their randomness, without gradients; gives
                a tensor (N, ...) or `SliceMoves`.
            places: index of each slice in its volume; None: their order.
            any_number: the network adds in one order for any number of slices, as a U-Net in boxes does.
            progress: called with (slices done, slices in all) after some slices each.

        Returns:
            A context that gives which slices, and what the work gave for them, as they are done. Slices of nothing but
            air are left out.
        """
        # Other operators than the identity add, too; twins and other samplers take the network past its boxes.
        in_boxes = any_number and self.operator.orthonormal and not self.twins and self.sampler is None
        return in_batches(
            slices,
            work,
            seed=self.seed,
            places=places,
            any_number=in_boxes,
            on_gpu=max(1, self.batch_size // self.samples),
            progress=progress,
        )

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
