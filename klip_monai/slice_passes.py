"""What is done with some slices: measured, their posterior sampled, the moves of its denoiser kept or summed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from klip_monai.freed_memory import keep_freed_memory
from klip_monai.physics import Measurement
from klip_monai.prior import Denoiser
from klip_monai.prior.within_body import Box, InBoxes, boxes_of
from klip_monai.sampling import Callback, ConjugateGradientPosterior, Step, posterior_sample, prior_sample, renoise
from klip_monai.scoring import KLAccumulator, Moves, SliceMoves, over_twins
from klip_monai.settings import InfererSettings
from klip_monai.slice_generator import SliceGenerator

_ROWS = 8  # states of slices that pass the network together on a core; more are hardly faster


class SlicePasses:
    """Passes of the network over some slices at a time.

    Args:
        settings: what is asked for.
        batch_size: states of slices that pass a GPU's network together.
    """

    def __init__(self, settings: InfererSettings, *, batch_size: int) -> None:
        super().__init__()
        self.settings = settings.settled()
        self.measured, self.sampling, self.estimation, self.reading, self.twins = self.settings
        self.batch_size = batch_size

    def map(self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator) -> torch.Tensor:
        """Density of one batch, over that of its twins if there are any; before smoothing.

        Args:
            images: standard slices, float32 (B, 1, H, W).
            network: the prior.
            generator: source of all randomness, with B slices.

        Returns:
            Float32 (B, 1, H, W), or (B, 2, H, W) if ``sharp``.
        """
        boxes = boxes_of(images, network, margin_px=self.sampling.body_margin_px)
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
        if not self.twins.twins:
            return density, x0
        twins = [
            self.density(twin, network, generator=generator)[0] for twin in self._make_twins(x0, network, generator)
        ]
        return over_twins(density, torch.cat(twins, dim=1), smoothing_px=self.twins.twin_smoothing_px), x0

    def _make_twins(self, x0: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> Iterator[torch.Tensor]:
        """In-distribution look-alikes of posterior samples (B, S, H, W), one batch (B, 1, H, W) after the other."""
        sigmas = self.twins.sigmas(self.sampling)
        for number in range(self.twins.twins):
            start = x0[:, number % x0.shape[1]][:, None]
            noisy = start + sigmas[0] * generator.normal(start)
            twin = prior_sample(network, noisy, sigmas=sigmas, generator=generator, churn=self.sampling.churn)
            yield twin.clamp(-1, 1)

    def measure(self, images: torch.Tensor, *, generator: SliceGenerator) -> Measurement:
        """Measure standard slices, float32 (B, 1, H, W), with noise, by ``data_operator`` if there is one."""
        operator, noise, other = self.measured.operator, self.measured.noise, self.measured.data_operator
        y = operator.A(images) if other is None else other.A(images) * (operator.scale / other.scale)
        return noise.apply(y, images=images, operator=operator, generator=generator)

    def density(
        self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator, tap: Callback | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL density of one batch of slices, float32 (B, 1 or 2, H, W); the rest as :meth:`density_of_measurement`."""
        boxes = boxes_of(images, network, margin_px=self.sampling.body_margin_px)
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
        lowpass = [self.reading.lowpass_px, *[0.0] * self.reading.sharp]
        accumulators = [self._accumulator(width) for width in lowpass]
        taps: list[Callback] = [*accumulators] if tap is None else [*accumulators, tap]
        x0 = self._run(measurement, network, generator=generator, taps=taps, boxes=boxes)
        return torch.cat([self._density(accumulator) for accumulator in accumulators], dim=1), x0

    def moves(self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator) -> SliceMoves:
        """What :meth:`map` is made from, before anything is squared; arguments as there."""
        own, x0 = self._moves(images, network, generator=generator)
        twins = self._make_twins(x0, network, generator) if self.twins.twins else ()
        return own.beside([self._moves(twin, network, generator=generator)[0] for twin in twins])

    def _moves(
        self, images: torch.Tensor, network: Denoiser, *, generator: SliceGenerator
    ) -> tuple[SliceMoves, torch.Tensor]:
        """The moves of one run, and its posterior samples (B, S, H, W)."""
        recorder = Moves(self.estimation.range, lowpass_px=self.reading.lowpass_px, noise_px=self.reading.noise_px)
        sharp = self._accumulator(0.0) if self.reading.sharp else None
        x0 = self._run(
            self.measure(images, generator=generator),
            network,
            generator=generator,
            taps=[recorder] if sharp is None else [recorder, sharp],
            boxes=boxes_of(images, network, margin_px=self.sampling.body_margin_px),
        )
        moves = recorder.of_slices(samples=self.sampling.samples, draws=self.estimation.reported)
        if sharp is None:
            return moves, x0
        return replace(moves, sharp=self._density(sharp)), x0

    def _accumulator(self, lowpass_px: float) -> KLAccumulator:
        return KLAccumulator(self.estimation.range, lowpass_px=lowpass_px, noise_px=self.reading.noise_px)

    def _density(self, accumulator: KLAccumulator) -> torch.Tensor:
        """Mean over the samples of each slice, (B, 1, H, W)."""
        density = accumulator.density(draws=self.estimation.reported)
        return density.unflatten(0, (-1, self.sampling.samples)).mean(dim=1).clamp_min(0)

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
        operator, how, samples = self.measured.operator, self.sampling, self.sampling.samples
        y, std = measurement.y.repeat_interleave(samples, dim=0), measurement.std
        if isinstance(std, torch.Tensor):
            std = std.expand_as(measurement.y).repeat_interleave(samples, dim=0)
        boxes = boxes or [Box(0, 0, *operator.image_shape)] * len(measurement.y)
        rows = _ROWS if y.device.type == "cpu" else self.batch_size
        posterior = ConjugateGradientPosterior(
            InBoxes(network, boxes, rows=rows),
            operator,
            y,
            noise_std=std,
            data_std=how.data_std,
            iterations=how.cg_iterations,
        )

        def report(step: Step) -> None:
            for tap in taps:
                tap(step)

        generator = generator.repeated(samples)
        renoised = self.estimation.estimator == "renoised"
        on_path = None if renoised else report
        x0 = operator.A_dagger(y, iterations=how.cg_iterations)
        if how.sampler is not None:
            x0 = how.sampler.sample(network, operator, y, x0, generator=generator, callback=on_path)
        elif how.sampler_levels:
            x = x0 + how.sigma_max * generator.normal(x0)
            walk = partial(posterior_sample, posterior, x, sigmas=how.sigmas)
            x0 = walk(generator=generator, churn=how.churn, callback=on_path)
        if renoised:
            edges, crossed = self.estimation.edges, self.estimation.crossed
            for _ in range(self.estimation.draws):
                renoise(posterior, x0, sigmas=edges, generator=generator, callback=report, crossed=crossed)
        return x0.unflatten(0, (len(measurement.y), samples))[:, :, 0]
