"""KLIP as a MONAI inferer: standard slices in, KL density map out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from klip_monai.one_thread_each import one_after_the_other, one_thread_each
from klip_monai.physics import LinearOperator, Measurement, Noise
from klip_monai.prior import Denoiser
from klip_monai.scan_reading import ScanReading, distances_of
from klip_monai.scoring import AlongScan, SliceMoves, smooth
from klip_monai.scoring.moves import check_slice_mm
from klip_monai.settings import (
    ESTIMATORS,
    NULLS,
    DensityReading,
    Estimation,
    InfererSettings,
    Measured,
    Sampling,
    Twins,
)
from klip_monai.settings.checks import at_least
from klip_monai.slice_batches import Progress, Work, adds_in_one_order, in_batches, shows_body
from klip_monai.slice_generator import SliceGenerator
from klip_monai.slice_passes import SlicePasses

__all__ = ["ESTIMATORS", "NULLS", "KLIPInferer", "Work"]

_FLAT = (
    "KLIPInferer: got settings by their plain names, expected measured, sampling, estimation, reading and twins, as "
    "the bundles that come with klip_monai have them; plain names are taken in this version only, and by KLIPInferer.of"
)


class KLIPInferer(SlicePasses, Inferer):
    """Measures slices with an operator, samples the posterior and maps where it leaves the prior.

    For each batch of slices: y = A x + e; posterior samples x0 from y; the KL density of the window's noise levels,
    either along the sampler's own path (``trajectory``, the paper's estimator) or at x0 + sigma n for fresh n
    (``renoised``); Gaussian smoothing. One definition of the score serves both (see :mod:`klip_monai.scoring.density`).

    Args:
        measured: A and the noise of y.
        sampling: of the posterior.
        estimation: estimator and window.
        reading: how the density becomes a map.
        twins: look-alikes that it is compared with; a number, as in configurations of earlier builds, with a warning.
        batch_size: slices times samples that are worked on together on a GPU. A CPU always works on few, each thread on
            its own, so that maps do not depend on the batch.
        seed: of measurement noise and sampling. The noise of a slice follows from it and from the slice's place in its
            volume: the same seed, weights, precision and device give the same map, on a CPU to the last bit whatever
            else is scored and with however many threads.
        **named: settings by their plain names, ``operator`` among them, as configurations of earlier builds have them;
            with a warning.

    Raises:
        ValueError: for settings that do not go together.
    """

    def __init__(
        self,
        measured: Measured | None = None,
        *,
        sampling: Sampling | None = None,
        estimation: Estimation | None = None,
        reading: DensityReading | None = None,
        twins: Twins | int | None = None,
        batch_size: int = 16,
        seed: int = 0,
        **named: Any,
    ) -> None:
        if isinstance(twins, int):  # the one plain name that is a value's too
            named, twins = named | {"twins": twins}, None
        if named:
            warnings.warn(_FLAT, FutureWarning, stacklevel=2)
        measured = measured or Measured(named.pop("operator"))
        given = (sampling or Sampling(), estimation or Estimation(), reading or DensityReading(), twins or Twins())
        for name, value in (("batch_size", batch_size), ("seed", seed)):
            if not isinstance(value, int):
                raise ValueError(f"{name}: got {value!r}, expected a whole number")
        at_least(1, batch_size=batch_size)
        self._given, self.seed = InfererSettings(measured, *given).changed(**named), seed
        super().__init__(self._given, batch_size=batch_size)

    @classmethod
    def of(cls, operator: LinearOperator, *, batch_size: int = 16, seed: int = 0, **named: Any) -> KLIPInferer:
        """An inferer from settings by their plain names, see :data:`klip_monai.settings.SETTINGS`.

        Raises:
            TypeError: for a setting that there is not.
            ValueError: for an impossible one.
        """
        return cls._from(InfererSettings.of(operator, **named), batch_size=batch_size, seed=seed)

    @classmethod
    def _from(cls, settings: InfererSettings, *, batch_size: int, seed: int) -> KLIPInferer:
        measured, *others = settings
        names = InfererSettings._fields[1:]
        return KLIPInferer(measured, **dict(zip(names, others, strict=True)), batch_size=batch_size, seed=seed)  # type: ignore[arg-type]

    @property
    def passes(self) -> int:
        """NFE: network passes a slice."""
        return self.settings.passes

    def describe(self) -> dict[str, Any]:
        """All settings that a score depends on, JSON-able; the seed and the batch size are not among them."""
        return self.settings.describe()

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
        if places is None and slice_mm is not None and (self.reading.lowpass_z_mm or self.reading.smoothing_z_mm):
            return self.maps(slices, network, slice_mm=[slice_mm], progress=progress)[0]
        maps = slices.new_zeros(len(slices), 1 + self.reading.sharp, *slices.shape[2:])

        def score(images: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
            return smooth(self.map(images, network, generator=generator), sigma_px=self.reading.smoothing_px)

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
                lowpass_z_mm=self.reading.lowpass_z_mm,
                smoothing_z_mm=self.reading.smoothing_z_mm,
                smoothing_px=self.reading.smoothing_px,
                twin_smoothing_px=self.twins.twin_smoothing_px,
                sharp=self.reading.sharp,
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
        within = self.sampling.sampler is None and not self.twins.twins
        in_boxes = any_number and within and self.measured.operator.orthonormal
        return in_batches(
            slices,
            work,
            seed=self.seed,
            places=places,
            any_number=in_boxes,
            on_gpu=max(1, self.batch_size // self.sampling.samples),
            progress=progress,
        )

    def noise_left(self, slices: int, *, slice_mm: float | None) -> torch.Tensor:
        """Share of the noise's energy that the low-pass along a scan leaves in each slice, float32 (slices,)."""
        if slice_mm is None:
            return torch.ones(slices)
        return AlongScan(slices, slice_mm=slice_mm, sigma_mm=self.reading.lowpass_z_mm).noise_left

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
                return smooth(maps, sigma_px=self.reading.smoothing_px), x0

        each_of = one_thread_each if measurement.y.device.type == "cpu" else one_after_the_other
        with each_of(score, [measurement]) as each:
            ((_, scored),) = each
        return scored

    def with_operator(self, operator: LinearOperator, *, noise: Noise, cg_iterations: int | None = None) -> KLIPInferer:
        """The same settings with another measurement, whose data it also makes; None keeps the iterations."""
        iterations = self.sampling.cg_iterations if cg_iterations is None else cg_iterations
        return self.changed(operator=operator, noise=noise, data_operator=None, cg_iterations=iterations)

    def changed(self, **settings: Any) -> KLIPInferer:
        """The same inferer with some settings changed, which have the names that it is made with.

        Raises:
            TypeError: for a setting that there is not.
            ValueError: for an impossible one.
        """
        running = {"batch_size": self.batch_size, "seed": self.seed}
        running |= {name: settings.pop(name) for name in running.keys() & settings.keys()}
        return self._from(self._given.changed(**settings), **running)
