"""A study of slices: healthy against anomalous ones, under several settings of the inferer."""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import (
    PROTOCOLS,
    Estimate,
    Values,
    block_level_auroc,
    bootstrap,
    dice,
    image_level_auroc,
    sensitivity,
    slice_level_auroc,
    slice_scores,
)
from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser
from klip_monai.scoring import ContrastSums, ExpectedDensity, contrast_px, local_contrast, smooth
from klip_monai.standard import PriorGrid

STRATA_MM = ((0.0, 8.0), (8.0, 14.0), (14.0, float("inf")))
"""Equivalent radius of the anomaly in its slice: low <= radius < high, mm."""


@dataclass(frozen=True)
class StudySlices:
    """Standard slices of known patients.

    Attributes:
        images: float32 (B, 1, H, W) in [-1, 1].
        masks: bool (B, 1, H, W), True in the anomaly; empty for healthy slices.
        body: bool (B, 1, H, W), True inside the body.
        patients: whose slice each is; confidence intervals are over patients.
    """

    images: torch.Tensor
    masks: torch.Tensor
    body: torch.Tensor
    patients: tuple[Hashable, ...]

    def __len__(self) -> int:
        return len(self.patients)


@dataclass(frozen=True)
class Row:
    """What one setting of the inferer reaches.

    Attributes:
        name: of the setting.
        passes: NFE, network passes a slice.
        seconds: wall time a slice.
        image_level: in-body pixels of the heat map: smoothed, and calibrated by healthy slices of other patients.
        slice_level: maximum of the heat map, healthy against lesion slices.
        plain_image_level: as ``image_level``, of the smoothed density without calibration.
        plain_slice_level: as ``slice_level``, of the smoothed density without calibration.
        blocks_in_body: image-level over blocks of the density, neither smoothed nor calibrated.
        blocks_legacy: the same with the blocks outside the body as negatives.
        dice: of the heat map above the 99.9 % quantile of healthy in-body pixels, mean over lesion slices.
        settings: :meth:`klip_monai.inferer.KLIPInferer.describe`.
    """

    name: str
    passes: int
    seconds: float
    image_level: Estimate
    slice_level: Estimate
    plain_image_level: Estimate
    plain_slice_level: Estimate
    blocks_in_body: Estimate
    blocks_legacy: Estimate
    dice: Estimate
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Stratum:
    """The first row's figures for lesions of one size.

    Attributes:
        low_mm: least equivalent radius in the slice.
        high_mm: the radius below which they lie; None is no limit.
        slices: number of lesion slices.
        image_level: as in :class:`Row`; None without slices.
        slice_level: against all healthy slices.
        sensitivity: slice-level, at a specificity of 95 %.
    """

    low_mm: float
    high_mm: float | None
    slices: int
    image_level: Estimate | None
    slice_level: Estimate | None
    sensitivity: Estimate | None


@dataclass(frozen=True)
class SliceStudy:
    """Result of :func:`run_slice_study`.

    Attributes:
        rows: one for each setting.
        strata: the first row's figures by size.
        block_px: side of the blocks, in pixels.
        healthy: number of healthy slices.
        anomalous: number of anomalous slices.
        healthy_scores: of each healthy slice, the in-body maximum of the first row's heat map.
    """

    rows: tuple[Row, ...]
    strata: tuple[Stratum, ...]
    block_px: int
    healthy: int
    anomalous: int
    healthy_scores: tuple[float, ...]


def study_progress() -> Progress:
    """The progress display of a study, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def run_slice_study(
    network: Denoiser,
    rows: Mapping[str, KLIPInferer],
    *,
    healthy: StudySlices,
    anomalous: Mapping[str, StudySlices],
    calibration: StudySlices,
    grid: PriorGrid,
    progress: Progress,
    block_px: int = 8,
    device: torch.device | str = "cpu",
) -> dict[str, SliceStudy]:
    """Score healthy and anomalous slices under each of several settings, each calibrated by further healthy slices.

    Args:
        network: the prior, on ``device``.
        rows: inferers by name; the first one's figures are also given by size.
        healthy: slices without an anomaly.
        anomalous: slices with one, by kind.
        calibration: healthy slices of other patients, that each row's expected density is taken from.
        grid: the prior's slice format.
        progress: shows how many slices are done.
        block_px: side of the blocks, in pixels.
        device: where to score.

    Returns:
        A study for each kind of anomaly.

    Raises:
        InputError: without rows or with fewer than two slices of a kind.
    """
    sizes = {"healthy": len(healthy), "calibration": len(calibration)} | {k: len(s) for k, s in anomalous.items()}
    if not rows or not anomalous or min(sizes.values()) < 2:
        counts = ", ".join(f"{size} {kind}" for kind, size in sizes.items())
        raise InputError(
            f"study: got {len(rows)} rows and {counts} slices; expected at least one row, one kind of anomaly, and two "
            "slices of each kind"
        )
    groups = [healthy, *anomalous.values(), calibration]
    images = torch.cat([group.images for group in groups])
    results: dict[str, list[Row]] = {kind: [] for kind in anomalous}
    strata: dict[str, list[Stratum]] = {}
    healthy_scores: tuple[float, ...] = ()
    for name, inferer in rows.items():
        density, seconds = _score(network, inferer, images.to(device), progress=progress, name=name)
        plain = smooth(density, sigma_px=inferer.smoothing_px)
        expected = _expected(plain[-len(calibration) :], calibration, grid)
        maps = _Maps(density, plain, plain * expected.gain(images))
        parts = [_Maps(*part) for part in zip(*(m.split([len(g) for g in groups]) for m in maps.all), strict=True)]
        healthy_scores = healthy_scores or tuple(map(float, slice_scores(parts[0].calibrated, healthy.body)))
        for (kind, ill), ill_maps in zip(anomalous.items(), parts[1:-1], strict=True):
            row = _row(name, inferer, parts[0], ill_maps, healthy, ill, seconds=seconds, block_px=block_px)
            results[kind].append(row)
            if kind not in strata:
                strata[kind] = _strata(parts[0].calibrated, ill_maps.calibrated, healthy, ill, pixel_mm=grid.pixel_mm)
    return {
        kind: SliceStudy(tuple(results[kind]), tuple(strata[kind]), block_px, len(healthy), len(ill), healthy_scores)
        for kind, ill in anomalous.items()
    }


@dataclass(frozen=True)
class _Maps:
    """Maps (B, 1, H, W): density, smoothed, and calibrated (the heat map)."""

    density: torch.Tensor
    plain: torch.Tensor
    calibrated: torch.Tensor

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        return self.density, self.plain, self.calibrated


def _expected(maps: torch.Tensor, healthy: StudySlices, grid: PriorGrid) -> ExpectedDensity:
    """Expected density from the smoothed maps of healthy slices."""
    around_px = contrast_px(grid.pixel_mm)
    contrast = local_contrast(healthy.images, sigma_px=around_px)
    sums = ContrastSums.of(maps[healthy.body].numpy(), contrast[healthy.body].numpy())
    return ExpectedDensity.fit(sums, contrast_px=around_px)


def _score(
    network: Denoiser, inferer: KLIPInferer, images: torch.Tensor, *, progress: Progress, name: str
) -> tuple[torch.Tensor, float]:
    """Density before smoothing, (B, 1, H, W) on the CPU, and seconds a slice."""
    task = progress.add_task(name, total=len(images))
    unsmoothed = copy.copy(inferer)
    unsmoothed.smoothing_px = 0
    unsmoothed.progress = lambda done, total: progress.update(task, completed=done)
    start = time.perf_counter()
    density = unsmoothed(images, network).cpu()
    return density, (time.perf_counter() - start) / len(images)


def _row(
    name: str,
    inferer: KLIPInferer,
    well_maps: _Maps,
    ill_maps: _Maps,
    well: StudySlices,
    ill: StudySlices,
    *,
    seconds: float,
    block_px: int,
) -> Row:
    threshold = float(np.quantile(well_maps.calibrated[well.body].numpy(), 0.999))
    overlaps = [dice((m >= threshold) & b, y) for m, y, b in zip(ill_maps.calibrated, ill.masks, ill.body, strict=True)]
    both = (well.patients, ill.patients)
    pairs = [(well_maps.calibrated, ill_maps.calibrated), (well_maps.plain, ill_maps.plain)]
    image_level = [image_level_auroc(m, ill.masks, ill.body, patients=ill.patients) for _, m in pairs]
    slice_level = [
        slice_level_auroc(slice_scores(w, well.body), slice_scores(m, ill.body), patients=both) for w, m in pairs
    ]
    blocks = [
        block_level_auroc(ill_maps.density, ill.masks, ill.body, size=block_px, protocol=p, patients=ill.patients)
        for p in PROTOCOLS
    ]
    return Row(
        name=name,
        passes=inferer.passes,
        seconds=seconds,
        image_level=image_level[0],
        slice_level=slice_level[0],
        plain_image_level=image_level[1],
        plain_slice_level=slice_level[1],
        blocks_in_body=blocks[0],
        blocks_legacy=blocks[1],
        dice=bootstrap(lambda values: float(values.mean()), overlaps, patients=[ill.patients]),
        settings=inferer.describe(),
    )


def _strata(
    well_maps: torch.Tensor, lesion_maps: torch.Tensor, well: StudySlices, ill: StudySlices, *, pixel_mm: float
) -> list[Stratum]:
    radii = equivalent_radii(ill.masks, pixel_mm=pixel_mm)
    healthy = slice_scores(well_maps, well.body)
    scores = slice_scores(lesion_maps, ill.body)
    strata = []
    for low, high in STRATA_MM:
        chosen = (radii >= low) & (radii < high)
        pick = torch.from_numpy(chosen)
        patients = tuple(p for p, c in zip(ill.patients, chosen, strict=True) if c)
        both = (well.patients, patients)
        some = bool(chosen.any())
        strata.append(
            Stratum(
                low_mm=low,
                high_mm=high if np.isfinite(high) else None,
                slices=int(chosen.sum()),
                image_level=image_level_auroc(lesion_maps[pick], ill.masks[pick], ill.body[pick], patients=patients)
                if some
                else None,
                slice_level=slice_level_auroc(healthy, scores[chosen], patients=both) if some else None,
                sensitivity=sensitivity(healthy, scores[chosen], patients=both) if some else None,
            )
        )
    return strata


def equivalent_radii(masks: torch.Tensor, *, pixel_mm: float) -> Values:
    """Radius in mm of the circle that has each mask's area: bool (B, 1, H, W) to float64 (B,)."""
    return np.sqrt(masks.sum(dim=(1, 2, 3)).double().numpy() / np.pi) * pixel_mm
