"""The scan study: what a user of the bundle meets. P-values and peaks of whole healthy and lesion phantom scans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import Estimate, bootstrap, slice_level_auroc
from klip_monai.evaluation.phantom_study import CONTRAST_HU, RADIUS_MM
from klip_monai.phantom import random_scan
from klip_monai.scan import Scorer
from klip_monai.scan.calibration import SLICE_MM
from klip_monai.scoring import IDReference
from klip_monai.standard import resample_mask, slice_distance, standard_slices

HEALTHY_SCAN_SEED = 600_000
"""First healthy phantom of the study; training, ID references and the phantom study use other seeds."""
LESION_SCAN_SEED = 700_000
"""First phantom with a lesion."""
LEVEL = 0.05
"""A scan is called out of distribution at or below this p-value."""


@dataclass(frozen=True)
class ScoredScan:
    """One scan.

    Attributes:
        seed: the patient.
        scan_score: maximum of the heat map, nats per pixel.
        p_value: against the ID reference.
        suspicious: share of the in-body pixels labelled 1 or 2, before small islands are dropped.
        peak_in_lesion: whether the maximum lies in the lesion; False for healthy scans.
    """

    seed: int
    scan_score: float
    p_value: float
    suspicious: float
    peak_in_lesion: bool


@dataclass(frozen=True)
class ScanStudy:
    """Result of :func:`run_scan_study`.

    Attributes:
        slices: slices of each scan.
        healthy: scans without a lesion.
        lesion: scans with one.
        false_alarms: share of healthy scans with p <= 0.05.
        found: share of lesion scans with p <= 0.05.
        localised: share of lesion scans whose maximum lies in the lesion.
        scan_level: AUROC of the scan scores, healthy against lesion.
    """

    slices: int
    healthy: tuple[ScoredScan, ...]
    lesion: tuple[ScoredScan, ...]
    false_alarms: Estimate
    found: Estimate
    localised: Estimate
    scan_level: Estimate


def run_scan_study(score: Scorer, *, scans: int, slices: int = 24) -> ScanStudy | None:
    """Score whole scans of unseen phantoms as the bundle would.

    Args:
        score: the transform, with the ID reference of its settings.
        scans: number of healthy scans, and of scans with a liver lesion; 0 makes no study.
        slices: slices of each scan, as many as the reference's scans have.

    Returns:
        The study, or None for no scans.

    Raises:
        InputError: if ``score`` has no reference, or for a single scan.
    """
    if scans == 0:
        return None
    if score.reference is None or scans < 2:
        raise InputError(
            f"scan study: got {scans} scans and {'an' if score.reference else 'no'} ID reference, expected at least 2 "
            "scans and a reference; make one with `klip-monai calibrate`"
        )
    healthy, lesion = (
        tuple(
            _scored(score, score.reference, seed=patient, slices=slices, lesion=seed == LESION_SCAN_SEED)
            for patient in track(range(seed, seed + scans), description=name, console=Console(stderr=True))
        )
        for seed, name in ((HEALTHY_SCAN_SEED, "healthy scans"), (LESION_SCAN_SEED, "lesion scans"))
    )
    return ScanStudy(
        slices=slices,
        healthy=healthy,
        lesion=lesion,
        false_alarms=_share([scan.p_value <= LEVEL for scan in healthy]),
        found=_share([scan.p_value <= LEVEL for scan in lesion]),
        localised=_share([scan.peak_in_lesion for scan in lesion]),
        scan_level=slice_level_auroc([s.scan_score for s in healthy], [s.scan_score for s in lesion]),
    )


def _scored(score: Scorer, reference: IDReference, *, seed: int, slices: int, lesion: bool) -> ScoredScan:
    scan = random_scan(
        seed, slices=slices, slice_mm=SLICE_MM, lesion=lesion, radius_mm=RADIUS_MM, contrast_hu=CONTRAST_HU
    )
    standard = standard_slices(scan.image, score.grid)
    heatmap = score.heatmap(standard.images, standard.body, slice_mm=slice_distance(standard.placement.affine))
    mask = resample_mask(scan.lesions, standard.placement)
    scan_score = float(heatmap.max())
    return ScoredScan(
        seed=seed,
        scan_score=scan_score,
        p_value=reference.p_value(scan_score),
        suspicious=float((heatmap[standard.body] >= reference.suspicious).double().mean()),
        peak_in_lesion=bool(mask.flatten()[torch.argmax(heatmap.flatten())]),
    )


def _share(outcomes: list[bool]) -> Estimate:
    return bootstrap(lambda values: float(np.mean(values)), outcomes)
