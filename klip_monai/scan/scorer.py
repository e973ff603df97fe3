"""The road from a scan to its case: read, bring to the prior's slices, score, calibrate, bring back, label."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor

from klip_monai.bundle import DEFAULT_BUNDLE, BundleInfo, find_bundle, open_workflow, provenance
from klip_monai.errors import BundleError, InputError, known_error
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import LinearOperator, Noise
from klip_monai.prior import Denoiser
from klip_monai.report.summary import Provenance
from klip_monai.scan.case import Case
from klip_monai.scan.opened import OpenedScan, Reading
from klip_monai.scan.overrides import bundle_overrides, check_measurement, check_settings
from klip_monai.scoring import MIN_ML, IDReference, settings_key, threshold_heatmap
from klip_monai.settings import SETTINGS
from klip_monai.slice_batches import Progress
from klip_monai.standard import PriorGrid, beneath_skin, to_source_grid

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

    from klip_monai.io.masks.roi import Roi
    from klip_monai.scan.opened import Source


def _impossible(error: BaseException) -> InputError | None:
    """The setting that a configuration could not be made with, behind an error that MONAI wrapped."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return InputError(f"settings: {error}") if isinstance(error, ValueError) else None


UNKNOWN = Provenance("", "", "")
"""Of scorers that were put together in Python."""


class Scorer:
    """A prior, how it is asked, and what healthy scans answer: scores scans, one at a time.

    Everything that scores goes through it: the command line, screening, calibration, studies, MONAI's transforms.

    Args:
        network: the prior.
        inferer: operator, sampler, window and smoothing.
        grid: the prior's slice format.
        reference: ID reference that calibrates heat maps, made with these settings; None leaves the KL density as it
            is, the one of all spatial frequencies out, and makes no cases.
        device: where the network is; what is given and returned may be anywhere, and is returned on the CPU.
        provenance: how scores are made, see :func:`klip_monai.bundle.provenance`; for the summary of a case.
    """

    def __init__(
        self,
        network: Denoiser,
        inferer: KLIPInferer,
        *,
        grid: PriorGrid,
        reference: IDReference | None = None,
        device: torch.device | str = "cpu",
        provenance: Provenance | None = None,
    ) -> None:
        self.network, self.inferer, self.grid, self.reference = network, inferer, grid, reference
        self.device, self.provenance = device, provenance or UNKNOWN

    @classmethod
    def open(
        cls,
        bundle: str | Path | BundleInfo = DEFAULT_BUNDLE,
        *,
        device: str = "auto",
        precision: str = "auto",
        preset: str | None = None,
        seed: int = 0,
        calibrated: bool = True,
        **settings: Any,
    ) -> Scorer:
        """Open a bundle.

        Args:
            bundle: a shipped one by name, or any by its folder.
            device: "auto" takes CUDA where there is one; else "cpu", "cuda", "cuda:1".
            precision: arithmetic of the network; "auto" takes what the device is faster in.
            preset: how many passes a slice gets, where the bundle has presets; None is the bundle's choice.
            seed: the same one, and the same all else, gives the same overlay.
            calibrated: with the ID reference of its settings; without, there are heat maps of the density as it is.
            **settings: ``operator`` by name, what it takes (:data:`klip_monai.operators.OPERATORS`), such as
                ``views``, and settings of the inferer (:class:`klip_monai.settings.SETTINGS`), such as
                ``estimator``, ``twins``, ``sharp``, ``null``.

        Raises:
            BundleError: no such bundle or preset, or no ID reference of these settings.
            InputError: a setting that there is not, or that the measurement does not have.
        """
        info = bundle if isinstance(bundle, BundleInfo) else find_bundle(str(bundle))
        asked = bundle_overrides(settings, device=device, precision=precision, preset=preset)
        check_settings(asked, known=SETTINGS)
        workflow = open_workflow(info, "inference.json", kind="inference", seed=seed, **asked)
        check_measurement(workflow.parser, asked)
        workflow.initialize()
        return cls.of(workflow.parser, calibrated=calibrated)

    @classmethod
    def of(cls, parser: ConfigParser, *, calibrated: bool = True) -> Scorer:
        """The scorer that a bundle's parsed ``inference.json`` describes.

        Args:
            parser: of :func:`klip_monai.bundle.open_workflow`.
            calibrated: with the ID reference of its settings.

        Raises:
            BundleError: if there is no such reference.
            InputError: for an impossible setting.
        """
        try:
            network, inferer, grid, device, settings = (
                parser.get_parsed_content(name) for name in ("network", "inferer", "grid", "device", "settings")
            )
            reference = parser.get_parsed_content("reference") if calibrated else None
        except RuntimeError as error:  # MONAI wraps whatever an expression raises
            if (known := known_error(error)) is None and (known := _impossible(error)) is None:
                raise
            raise known from None
        used = {"seed": inferer.seed, "device": device, "network": network, "preset": parser.get("preset")}
        made = provenance(parser.get_parsed_content("bundle_root"), settings, **used)
        return cls(network, inferer, grid=grid, reference=reference, device=device, provenance=made)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that a score depends on but for seed and rounding, JSON-able."""
        return self.provenance.settings

    def changed(self, **settings: Any) -> Scorer:
        """The same with some settings of the inferer changed, by their plain names.

        The ID reference stays only where no score depends on what was changed, as on ``batch_size`` or ``seed``.

        Raises:
            InputError: for a setting that there is not, or an impossible one.
        """
        try:
            inferer = self.inferer.changed(**settings)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None
        other = self if inferer.describe() == self.inferer.describe() else self._uncalibrated(inferer)
        other = copy(other)
        other.inferer, other.provenance = inferer, replace(other.provenance, seed=inferer.seed)
        return other

    def measuring(self, operator: LinearOperator, *, noise: Noise, cg_iterations: int) -> Scorer:
        """The same with another measurement; no ID reference belongs to it.

        Args:
            operator: A on the prior's slices.
            noise: of the measurement.
            cg_iterations: conjugate-gradient steps of a posterior denoising.
        """
        return self._uncalibrated(self.inferer.with_operator(operator, noise=noise, cg_iterations=cg_iterations))

    def _uncalibrated(self, inferer: KLIPInferer) -> Scorer:
        """The same with an inferer that no ID reference is known of."""
        own = {name: self.settings[name] for name in ("weights_sha256", "grid") if name in self.settings}
        settings = own | inferer.describe()
        made = replace(self.provenance, settings=settings, key=settings_key(settings))
        return Scorer(self.network, inferer, grid=self.grid, device=self.device, provenance=made)

    def __call__(
        self,
        scan: Source,
        *,
        roi: Roi | str | Path | None = None,
        reading: Reading | None = None,
        progress: Progress | None = None,
    ) -> Case:
        """Read a scan and score it.

        Args:
            scan: a DICOM folder or archive, a NIfTI, NRRD or MetaImage file, or float32 HU (1, X, Y, Z) in memory.
            roi: the region to look at, `FILE` or `FILE:LABELS`; None looks at all of it.
            reading: how it is read; None as it comes.
            progress: called with (slices done, slices in all).

        Returns:
            The case, to be written by :func:`klip_monai.scan.save_case`.

        Raises:
            InputError: for a scan or a region that cannot be scored.
            BundleError: without an ID reference.
        """
        return self.score(self.read(scan, roi=roi, reading=reading), progress=progress)

    def read(self, scan: Source, *, roi: Roi | str | Path | None = None, reading: Reading | None = None) -> OpenedScan:
        """Read a scan and bring it to the prior's slices; arguments and errors as for calling."""
        rim = self.inferer.reading.skin_px
        return OpenedScan.read(scan, self.grid, reading=reading or Reading(), roi=roi, skin_px=rim)

    def score(
        self,
        scan: OpenedScan,
        *,
        progress: Progress | None = None,
        turn: AbstractContextManager[Any] | None = None,
    ) -> Case:
        """Score a scan that was read.

        Args:
            scan: the scan.
            progress: called with (slices done, slices in all).
            turn: held while the network runs, so that other scans can be read and written meanwhile.

        Raises:
            BundleError: without an ID reference.
        """
        self._calibrating()
        with turn or nullcontext():
            start = time.perf_counter()
            density = self.densities(scan.slices.images, slice_mm=scan.slice_mm, progress=progress)
            seconds = time.perf_counter() - start
        start = time.perf_counter()
        case = self.case(scan, density)
        return case.timed(read=scan.read_seconds, score=seconds + time.perf_counter() - start)

    def case(self, scan: OpenedScan, density: torch.Tensor) -> Case:
        """Make a case from the density of a scan's slices, float32 (Z, 1 or 2, H, W), see :meth:`densities`.

        Raises:
            BundleError: without an ID reference.
        """
        reference, volume = self._calibrating(), scan.volume
        heatmap, score = self._on_scan(scan, density)
        labels = threshold_heatmap(
            heatmap[0].numpy(),
            suspicious=reference.suspicious,
            strong=reference.strong,
            voxel_ml=float(np.abs(np.linalg.det(np.asarray(volume.affine)[:3, :3])) / 1000),
            min_ml=MIN_ML,
        )
        return Case(
            volume=volume,
            heatmap=heatmap,
            labels=MetaTensor(torch.from_numpy(labels)[None], affine=heatmap.affine),
            scan_score=score,
            reference=reference,
            provenance=self.provenance,
            keep_names=scan.keep_names,
            region=scan.region,
        )

    def heatmap_of(self, scan: OpenedScan, *, progress: Progress | None = None) -> tuple[MetaTensor, float]:
        """Heat map of a scan on its own grid, and the scan score, with or without an ID reference.

        Returns:
            Float32 (1, X, Y, Z), zero outside of the region; and the maximum before it was brought back.
        """
        return self._on_scan(scan, self.densities(scan.slices.images, slice_mm=scan.slice_mm, progress=progress))

    def heatmap(
        self,
        images: torch.Tensor,
        body: torch.Tensor,
        *,
        slice_mm: float | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Heat map of standard slices.

        Args:
            images: float32 (Z, 1, H, W) in [-1, 1].
            body: bool (Z, 1, H, W).
            slice_mm: their distance if they are neighbours, mm; None reads each by itself.
            progress: called with (slices done, slices in all).

        Returns:
            Float32 (Z, 1, H, W), zero outside of the body and in the rim that the inferer leaves out.
        """
        density = self.densities(images, slice_mm=slice_mm, progress=progress)
        return self._calibrated(density, images, body, slice_mm=slice_mm)

    def densities(
        self, images: torch.Tensor, *, slice_mm: float | None = None, progress: Progress | None = None
    ) -> torch.Tensor:
        """Standard slices (Z, 1, H, W) to what the inferer makes of them: float32 (Z, 1 or 2, H, W) on the CPU."""
        on_device = images.to(self.device)
        return self.inferer(on_device, self.network, slice_mm=slice_mm, progress=progress).cpu()

    def counted(self, body: torch.Tensor) -> torch.Tensor:
        """The pixels of a body mask, bool (Z, 1, H, W), that heat maps cover."""
        return beneath_skin(body, skin_px=self.inferer.reading.skin_px)

    def _calibrating(self) -> IDReference:
        if self.reference is None:
            raise BundleError("ID reference: got none, expected the one of these settings; `klip-monai calibrate` it")
        return self.reference

    def _calibrated(
        self, density: torch.Tensor, images: torch.Tensor, body: torch.Tensor, *, slice_mm: float | None
    ) -> torch.Tensor:
        """Density (Z, 1 or 2, H, W) to heat map (Z, 1, H, W)."""
        heatmap, body = density[:, :1], body.cpu()
        if self.reference is not None:
            left = self.inferer.noise_left(len(images), slice_mm=slice_mm)
            heatmap = self.reference.expected.heatmap(density, images.cpu(), body=body, noise_left=left)
        return heatmap * self.counted(body)

    def _on_scan(self, scan: OpenedScan, density: torch.Tensor) -> tuple[MetaTensor, float]:
        """Heat map on the scan's grid, and the scan score."""
        slices = scan.slices
        counted = heatmap = self._calibrated(density, slices.images, slices.body, slice_mm=scan.slice_mm)
        on_scan = to_source_grid(heatmap, slices.placement)
        if scan.region is not None and scan.region_slices is not None:
            counted = heatmap * scan.region_slices
            on_scan.mul_(scan.region.as_tensor().cpu())
        return on_scan, float(counted.max())
