"""A study of slices: healthy against anomalous ones, by each of several methods."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.method import Entry, Fitted
from klip_monai.evaluation.metrics import (
    PROTOCOLS,
    Estimate,
    Values,
    block_level_auroc,
    bootstrap,
    dice,
    false_positive_rate,
    image_level_auroc,
    sensitivity,
    slice_level_auroc,
    slice_scores,
)
from klip_monai.evaluation.precision_recall import (
    pixel_average_precision,
    pixel_best_dice,
    slice_average_precision,
)
from klip_monai.evaluation.scored import Scored, score_slices
from klip_monai.scoring import ContextNull, ContrastSums, ExpectedDensity, contrast_px, local_contrast, smooth
from klip_monai.standard import PriorGrid, beneath_skin

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
    """What one map, or one slice score, reaches.

    Attributes:
        name: of the method, and of the reading where it has several.
        calibrated: whether the map is divided by what healthy tissue of the same local contrast scores.
        passes: NFE, network passes a slice.
        seconds: wall time a slice.
        memory_mb: most memory taken while scoring; None where it cannot be told.
        slice_level: AUROC of the slice score, healthy against anomalous slices (the paper's dataset level).
        average_precision: of the slice score.
        fpr95: share of healthy slices called anomalous where 95 % of the anomalous ones are.
        sensitivity: share of anomalous slices found at a specificity of 95 %.
        image_level: AUROC over the in-body pixels of the smoothed map of each anomalous slice; this and what follows
            are None for a method that does not localise.
        pixel_ap: average precision over those pixels.
        best_dice: Dice of the map at the one threshold that is best for all anomalous slices together.
        dice: Dice above the 99.9 % quantile of healthy in-body pixels, mean over anomalous slices.
        blocks_in_body: image-level over sums of blocks of the map, not smoothed.
        blocks_legacy: the same with the blocks outside the body as negatives.
        settings: of the method.
        healthy_scores: slice score of each healthy slice.
        scores: slice score of each anomalous slice.
    """

    name: str
    calibrated: bool
    passes: int
    seconds: float
    memory_mb: float | None
    slice_level: Estimate
    average_precision: Estimate
    fpr95: Estimate
    sensitivity: Estimate
    image_level: Estimate | None
    pixel_ap: Estimate | None
    best_dice: Estimate | None
    dice: Estimate | None
    blocks_in_body: Estimate | None
    blocks_legacy: Estimate | None
    settings: Mapping[str, Any]
    healthy_scores: tuple[float, ...]
    scores: tuple[float, ...]


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
        rows: of each method, the calibrated one first where there is one.
        strata: the first row's figures by size.
        block_px: side of the blocks, in pixels.
        healthy: number of healthy slices.
        anomalous: number of anomalous slices.
    """

    rows: tuple[Row, ...]
    strata: tuple[Stratum, ...]
    block_px: int
    healthy: int
    anomalous: int


@dataclass(frozen=True)
class Compared:
    """The slices of a comparison.

    Attributes:
        healthy: slices without an anomaly.
        anomalous: slices with one, by kind.
        calibration: healthy slices of other patients.
        grid: the prior's slice format.
    """

    healthy: StudySlices
    anomalous: Mapping[str, StudySlices]
    calibration: StudySlices
    grid: PriorGrid


def run_slice_study(
    rows: Mapping[str, Entry],
    slices: Compared,
    *,
    progress: Progress,
    smoothing_px: float = 1.5,
    block_px: int = 8,
    device: torch.device | str = "cpu",
    keep: str | Path | None = None,
) -> dict[str, SliceStudy]:
    """Score healthy and anomalous slices with each of several methods, on the same slices and the same body mask.

    Args:
        rows: methods by name, their networks on ``device``. Those that need healthy slices to compare with
            (:class:`Fitted`) are fitted to those of calibration; maps of KLIP are given as they are and calibrated.
        slices: what to score.
        progress: shows how many slices are done.
        smoothing_px: smoothing of the maps of methods other than KLIP, pixels.
        block_px: side of the blocks, in pixels.
        device: where to score.
        keep: folder to keep scores in; the same study run again goes on from there. None keeps nothing.

    Returns:
        A study for each kind of anomaly.

    Raises:
        InputError: without rows or with fewer than two slices of a kind.
    """
    healthy, anomalous, calibration = slices.healthy, slices.anomalous, slices.calibration
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
    for name, entry in rows.items():
        method, prior, fitted_to = entry.method, entry.network, None
        if isinstance(method, Fitted):
            fitted_to = calibration.images
            method = method.fit(fitted_to.to(device), calibration.body.to(device), prior)
        task = progress.add_task(name, total=len(images))
        every = score_slices(
            method,
            images.to(device),
            prior,
            smoothing_px=smoothing_px,
            keep=keep,
            fitted_to=fitted_to,
            report=lambda done, task=task: progress.update(task, completed=done),  # type: ignore[misc]
        )
        for reading, scored in every.items():
            full = f"{name}: {reading}" if reading else name
            two = scored.maps is not None and scored.maps.shape[1] == 2
            for calibrated in (True, False) if scored.calibration or two else (False,):
                parts = _parts(scored, images, groups, slices.grid, calibrated=calibrated, null=entry.null)
                for (kind, ill), part in zip(anomalous.items(), parts[1:-1], strict=True):
                    row = _row(full, scored, parts[0], part, healthy, ill, calibrated=calibrated, block_px=block_px)
                    results[kind].append(row)
                    if kind not in strata:
                        strata[kind] = _strata(parts[0], part, healthy, ill, pixel_mm=slices.grid.pixel_mm)
    return {
        kind: SliceStudy(tuple(results[kind]), tuple(strata[kind]), block_px, len(healthy), len(ill))
        for kind, ill in anomalous.items()
    }


@dataclass(frozen=True)
class _Part:
    """A method's result for one group of slices: maps before and after smoothing, (B, 1, H, W), and scores (B,)."""

    density: torch.Tensor | None
    maps: torch.Tensor | None
    scores: Values


def _parts(
    scored: Scored,
    images: torch.Tensor,
    groups: Sequence[StudySlices],
    grid: PriorGrid,
    *,
    calibrated: bool,
    null: ContextNull | None,
) -> list[_Part]:
    """A part for each group, the last of which calibrates."""
    sizes = [len(group) for group in groups]
    if scored.maps is None:
        assert scored.scores is not None
        return [_Part(None, None, values.numpy()) for values in scored.scores.split(sizes)]
    density = scored.maps
    maps = smooth(density, sigma_px=scored.smoothing_px)
    counted = [beneath_skin(group.body, skin_px=scored.skin_px) for group in groups]
    if calibrated:
        expected = null or expected_density(
            maps[-sizes[-1] :], groups[-1].images, counted[-1], grid, strength=scored.calibration
        )
        seen = {"body": torch.cat([group.body for group in groups]), "noise_left": torch.ones(len(images))}
        density, maps = (expected.heatmap(values, images, **seen) for values in (density, maps))
    else:
        density, maps = density[:, :1], maps[:, :1]
    density, maps = (values * torch.cat(counted) for values in (density, maps))
    parts = zip(density.split(sizes), maps.split(sizes), groups, strict=True)
    return [_Part(d, m, _slice_scores(d, m, group.body, scored.statistic)) for d, m, group in parts]


def _slice_scores(density: torch.Tensor, maps: torch.Tensor, body: torch.Tensor, statistic: str) -> Values:
    if statistic == "sum":
        return (density * body).sum(dim=(1, 2, 3)).double().numpy()
    return slice_scores(maps, body)


def expected_density(
    maps: torch.Tensor, images: torch.Tensor, counted: torch.Tensor, grid: PriorGrid, *, strength: float
) -> ExpectedDensity:
    """Expected density from the smoothed densities of healthy slices, to calibrate that strongly.

    Args:
        maps: float32 (B, 1 or 2, H, W), nats per pixel.
        images: the slices, float32 (B, 1, H, W) in [-1, 1].
        counted: which pixels count, bool (B, 1, H, W).
        grid: the prior's slice format.
        strength: see :class:`klip_monai.scoring.ExpectedDensity`.
    """
    around_px = contrast_px(grid.pixel_mm)
    contrast = local_contrast(images, sigma_px=around_px)[counted].numpy()
    density = maps.movedim(1, -1)[counted[:, 0]].numpy()
    alone = ExpectedDensity.fit(ContrastSums.of(density[:, 0], contrast), contrast_px=around_px, strength=strength)
    return alone.matched(density, contrast)


def _row(
    name: str,
    scored: Scored,
    well_part: _Part,
    ill_part: _Part,
    well: StudySlices,
    ill: StudySlices,
    *,
    calibrated: bool,
    block_px: int,
) -> Row:
    scores, both = (well_part.scores, ill_part.scores), (well.patients, ill.patients)
    return Row(
        name=name,
        calibrated=calibrated,
        passes=scored.passes,
        seconds=scored.seconds,
        memory_mb=scored.memory_mb,
        slice_level=slice_level_auroc(*scores, patients=both),
        average_precision=slice_average_precision(*scores, patients=both),
        fpr95=false_positive_rate(*scores, patients=both),
        sensitivity=sensitivity(*scores, patients=both),
        settings=scored.settings,
        healthy_scores=tuple(map(float, well_part.scores)),
        scores=tuple(map(float, ill_part.scores)),
        **_localisation(well_part, ill_part, well, ill, block_px=block_px),
    )


def _localisation(
    well_part: _Part, ill_part: _Part, well: StudySlices, ill: StudySlices, *, block_px: int
) -> dict[str, Any]:
    """The fields of a row that need maps."""
    names = ("image_level", "pixel_ap", "best_dice", "dice", "blocks_in_body", "blocks_legacy")
    if ill_part.maps is None or ill_part.density is None or well_part.maps is None:
        return dict.fromkeys(names)
    threshold = float(np.quantile(well_part.maps[well.body].numpy(), 0.999))
    overlaps = [dice((m >= threshold) & b, y) for m, y, b in zip(ill_part.maps, ill.masks, ill.body, strict=True)]
    blocks = [
        block_level_auroc(ill_part.density, ill.masks, ill.body, size=block_px, protocol=p, patients=ill.patients)
        for p in PROTOCOLS
    ]
    values = (
        image_level_auroc(ill_part.maps, ill.masks, ill.body, patients=ill.patients),
        pixel_average_precision(ill_part.maps, ill.masks, ill.body, patients=ill.patients),
        pixel_best_dice(ill_part.maps, ill.masks, ill.body, patients=ill.patients),
        bootstrap(lambda values: float(values.mean()), overlaps, patients=[ill.patients]),
        *blocks,
    )
    return dict(zip(names, values, strict=True))


def _strata(
    well_part: _Part, ill_part: _Part, well: StudySlices, ill: StudySlices, *, pixel_mm: float
) -> list[Stratum]:
    radii = equivalent_radii(ill.masks, pixel_mm=pixel_mm)
    strata = []
    for low, high in STRATA_MM:
        chosen = (radii >= low) & (radii < high)
        pick = torch.from_numpy(chosen)
        patients = tuple(p for p, c in zip(ill.patients, chosen, strict=True) if c)
        both, some = (well.patients, patients), bool(chosen.any())
        scores = (well_part.scores, ill_part.scores[chosen])
        maps = ill_part.maps
        localised = some and maps is not None
        strata.append(
            Stratum(
                low_mm=low,
                high_mm=high if np.isfinite(high) else None,
                slices=int(chosen.sum()),
                image_level=image_level_auroc(maps[pick], ill.masks[pick], ill.body[pick], patients=patients)
                if localised and maps is not None
                else None,
                slice_level=slice_level_auroc(*scores, patients=both) if some else None,
                sensitivity=sensitivity(*scores, patients=both) if some else None,
            )
        )
    return strata


def equivalent_radii(masks: torch.Tensor, *, pixel_mm: float) -> Values:
    """Radius in mm of the circle that has each mask's area: bool (B, 1, H, W) to float64 (B,)."""
    return np.sqrt(masks.sum(dim=(1, 2, 3)).double().numpy() / np.pi) * pixel_mm
