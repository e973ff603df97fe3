"""The phantom study: liver lesions against matched healthy slices, under several settings of the inferer."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from klip_monai.calibration import SLICE_MM
from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import (
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
from klip_monai.phantom import random_scan
from klip_monai.prior import Denoiser
from klip_monai.scoring import CONTRAST_PX, ContrastSums, ExpectedDensity, local_contrast, smooth
from klip_monai.standard import PriorGrid, resample_mask, standard_slices

HEALTHY_SEED = 200_000
"""First healthy phantom of the study; training, validation and ID references use other seeds."""
CALIBRATION_SEED = 250_000
"""First healthy phantom that the expected density of each row is taken from."""
LESION_SEED = 300_000
"""First phantom with a lesion."""
RADIUS_MM = (4.0, 20.0)
CONTRAST_HU = (20.0, 80.0)
STRATA_MM = ((0.0, 8.0), (8.0, 14.0), (14.0, float("inf")))
"""Equivalent radius of the lesion in its slice: low <= radius < high, mm."""


@dataclass(frozen=True)
class StudySlices:
    """One standard slice per patient.

    Attributes:
        images: float32 (B, 1, H, W) in [-1, 1].
        masks: bool (B, 1, H, W), True in the lesion; empty for healthy slices.
        body: bool (B, 1, H, W), True inside the body.
        seeds: the patients.
    """

    images: torch.Tensor
    masks: torch.Tensor
    body: torch.Tensor
    seeds: tuple[int, ...]


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
class PhantomStudy:
    """Result of :func:`run_phantom_study`: rows, strata of the first row, how it was made, patients by seed."""

    rows: tuple[Row, ...]
    strata: tuple[Stratum, ...]
    slice_mm: tuple[float, float]
    block_px: int
    healthy_seeds: tuple[int, ...]
    lesion_seeds: tuple[int, ...]


def study_slices(
    count: int,
    grid: PriorGrid,
    *,
    seed: int,
    lesion: bool,
    slice_mm: tuple[float, float] = SLICE_MM,
    progress: Progress | None = None,
) -> StudySlices:
    """Make phantom slices, one per patient.

    Every patient is given a liver lesion and the slice in which it is largest is taken; for healthy slices the same
    slice is then taken from a scan of the patient without the lesion. So healthy and lesion slices have one
    distribution of positions, and only the lesion tells them apart. Patients whose lesion covers no pixel of any slice
    are passed over, in both groups.

    Args:
        count: number of slices.
        grid: slice format.
        seed: first patient.
        lesion: keep the lesion.
        slice_mm: range of the distance between the slices of a scan; by default that of the ID reference's phantoms, so
            that a slice runs through the thick of a lesion.
        progress: shows how many are done.
    """
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]] = []
    task = progress.add_task("lesion phantoms" if lesion else "healthy phantoms", total=count) if progress else None
    for patient in itertools.count(seed):
        if len(found) == count:
            break
        ill = random_scan(patient, slice_mm=slice_mm, lesion=True, radius_mm=RADIUS_MM, contrast_hu=CONTRAST_HU)
        standard = standard_slices(ill.image, grid)
        masks = resample_mask(ill.lesions, standard.placement) & standard.body
        areas = masks.sum(dim=(1, 2, 3))
        z = int(areas.argmax())
        if areas[z] == 0:
            continue
        if not lesion:
            standard = standard_slices(random_scan(patient, slice_mm=slice_mm).image, grid)
            masks = torch.zeros_like(masks)
        found.append((standard.images[z], masks[z], standard.body[z], patient))
        if progress is not None and task is not None:
            progress.update(task, completed=len(found))
    images, kept_masks, body, seeds = zip(*found, strict=True)
    return StudySlices(torch.stack(images), torch.stack(kept_masks), torch.stack(body), tuple(seeds))


def run_phantom_study(
    network: Denoiser,
    rows: Mapping[str, KLIPInferer],
    *,
    grid: PriorGrid,
    healthy: int = 100,
    lesions: int = 100,
    calibration: int = 100,
    slice_mm: tuple[float, float] = SLICE_MM,
    block_px: int = 8,
    device: torch.device | str = "cpu",
) -> PhantomStudy:
    """Score healthy and lesion phantoms under each of several settings, each calibrated by healthy phantoms.

    Args:
        network: the prior, on ``device``.
        rows: inferers by name; the first one's figures are also given by lesion size.
        grid: the prior's slice format.
        healthy: number of healthy slices, one per patient.
        lesions: number of lesion slices, one per patient.
        calibration: number of further healthy slices, one per patient, that each row's expected density is taken from.
        slice_mm: range of the distance between the slices of the scans that the slices are taken from.
        block_px: side of the blocks, in pixels.
        device: where to score.

    Raises:
        InputError: without rows or with fewer than two slices of a kind.
    """
    if not rows or min(healthy, lesions, calibration) < 2:
        raise InputError(
            f"phantom study: got {len(rows)} rows, {healthy} healthy, {lesions} lesion and {calibration} calibration "
            "slices; expected at least one row and two slices of each kind"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        well = study_slices(healthy, grid, seed=HEALTHY_SEED, lesion=False, slice_mm=slice_mm, progress=progress)
        ill = study_slices(lesions, grid, seed=LESION_SEED, lesion=True, slice_mm=slice_mm, progress=progress)
        null = study_slices(
            calibration, grid, seed=CALIBRATION_SEED, lesion=False, slice_mm=slice_mm, progress=progress
        )
        images = torch.cat([well.images, ill.images, null.images]).to(device)
        results, strata = [], []
        for name, inferer in rows.items():
            density, seconds = _score(network, inferer, images, progress=progress, name=name)
            density, null_density = density[: -len(null.seeds)], density[-len(null.seeds) :]
            expected = _expected(smooth(null_density, sigma_px=inferer.smoothing_px), null)
            maps = _Maps(
                density=density,
                plain=smooth(density, sigma_px=inferer.smoothing_px),
                gain=expected.gain(torch.cat([well.images, ill.images])),
            )
            results.append(_row(name, inferer, maps, well, ill, seconds=seconds, block_px=block_px))
            if len(results) == 1:
                strata = _strata(maps.calibrated, well, ill, pixel_mm=grid.pixel_mm)
    return PhantomStudy(tuple(results), tuple(strata), slice_mm, block_px, well.seeds, ill.seeds)


@dataclass(frozen=True)
class _Maps:
    """Maps of the healthy, then of the lesion slices, (B, 1, H, W): density, smoothed, and what calibrates it."""

    density: torch.Tensor
    plain: torch.Tensor
    gain: torch.Tensor

    @property
    def calibrated(self) -> torch.Tensor:
        """The heat map."""
        return self.plain * self.gain


def _expected(maps: torch.Tensor, healthy: StudySlices) -> ExpectedDensity:
    """Expected density from the smoothed maps of healthy slices."""
    contrast = local_contrast(healthy.images, sigma_px=CONTRAST_PX)
    sums = ContrastSums.of(maps[healthy.body].numpy(), contrast[healthy.body].numpy())
    return ExpectedDensity.fit(sums, contrast_px=CONTRAST_PX)


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
    maps: _Maps,
    well: StudySlices,
    ill: StudySlices,
    *,
    seconds: float,
    block_px: int,
) -> Row:
    n = len(well.seeds)
    heat = maps.calibrated
    threshold = float(np.quantile(heat[:n][well.body].numpy(), 0.999))
    overlaps = [dice((m >= threshold) & b, y) for m, y, b in zip(heat[n:], ill.masks, ill.body, strict=True)]
    image_level = [image_level_auroc(m[n:], ill.masks, ill.body) for m in (heat, maps.plain)]
    slice_level = [
        slice_level_auroc(slice_scores(m[:n], well.body), slice_scores(m[n:], ill.body)) for m in (heat, maps.plain)
    ]
    return Row(
        name=name,
        passes=inferer.passes,
        seconds=seconds,
        image_level=image_level[0],
        slice_level=slice_level[0],
        plain_image_level=image_level[1],
        plain_slice_level=slice_level[1],
        blocks_in_body=block_level_auroc(maps.density[n:], ill.masks, ill.body, size=block_px),
        blocks_legacy=block_level_auroc(maps.density[n:], ill.masks, ill.body, size=block_px, protocol="legacy"),
        dice=bootstrap(lambda values: float(values.mean()), overlaps),
        settings=inferer.describe(),
    )


def _strata(maps: torch.Tensor, well: StudySlices, ill: StudySlices, *, pixel_mm: float) -> list[Stratum]:
    radii = equivalent_radii(ill.masks, pixel_mm=pixel_mm)
    healthy = slice_scores(maps[: len(well.seeds)], well.body)
    lesion_maps = maps[len(well.seeds) :]
    scores = slice_scores(lesion_maps, ill.body)
    strata = []
    for low, high in STRATA_MM:
        chosen = (radii >= low) & (radii < high)
        pick = torch.from_numpy(chosen)
        some = bool(chosen.any())
        strata.append(
            Stratum(
                low_mm=low,
                high_mm=high if np.isfinite(high) else None,
                slices=int(chosen.sum()),
                image_level=image_level_auroc(lesion_maps[pick], ill.masks[pick], ill.body[pick]) if some else None,
                slice_level=slice_level_auroc(healthy, scores[chosen]) if some else None,
                sensitivity=sensitivity(healthy, scores[chosen]) if some else None,
            )
        )
    return strata


def equivalent_radii(masks: torch.Tensor, *, pixel_mm: float) -> Values:
    """Radius in mm of the circle that has each mask's area: bool (B, 1, H, W) to float64 (B,)."""
    return np.sqrt(masks.sum(dim=(1, 2, 3)).double().numpy() / np.pi) * pixel_mm
