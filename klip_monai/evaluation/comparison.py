"""Methods side by side on the same slices, the same anomalies and the same body mask, as a study file asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.anomaly_study import with_anomalies
from klip_monai.evaluation.progress import study_progress
from klip_monai.evaluation.reading import Readings, spectra
from klip_monai.evaluation.scored import score_slices
from klip_monai.evaluation.slice_study import Compared, SliceStudy, StudySlices, run_slice_study
from klip_monai.evaluation.study_file import Entry, Study
from klip_monai.inferer import KLIPInferer
from klip_monai.prior import log_sigmas
from klip_monai.scoring import smooth
from klip_monai.scoring.expected import RARE
from klip_monai.standard import beneath_skin

_CURVE_BINS, _CURVE_RANGE, _CURVE_SLICES = 18, (3.0, 0.02), 16
_EXAMPLES = 4


@dataclass(frozen=True)
class DensityCurve:
    """How much each noise level adds, per unit of ln sigma: the paper's hump.

    Attributes:
        edges: descending noise levels, K + 1.
        healthy: nats per pixel and unit of ln sigma, in-body pixels of healthy slices, (K,).
        anomalous: of the pixels within anomalies, by kind, (K,).
    """

    edges: tuple[float, ...]
    healthy: tuple[float, ...]
    anomalous: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Examples:
    """Slices to look at: images, masks and heat maps, (N, 1, H, W), and the body's 99.9 % quantile."""

    images: torch.Tensor
    masks: torch.Tensor
    maps: torch.Tensor
    top: float


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`run_comparison`.

    Attributes:
        title: of the study.
        studies: by kind of anomaly.
        patients: of the healthy slices, their number.
        calibration: number of slices that calibrated.
        curve: of the first row that is KLIP; None if there is none.
        examples: by kind, of the same row; empty if there is none.
    """

    title: str
    studies: Mapping[str, SliceStudy]
    patients: int
    calibration: int
    curve: DensityCurve | None
    examples: Mapping[str, Examples]


def run_comparison(study: Study, *, keep: str | Path | None = None) -> Comparison:
    """Run a study.

    Args:
        study: from :func:`klip_monai.evaluation.study_file.read_study`.
        keep: folder to keep scores in; the same study run again goes on from there.

    Raises:
        InputError: without anomalies, with too few slices, or with a patient on both sides.
    """
    if not study.makers:
        raise InputError("anomalies: got none, expected at least one kind, such as stars")
    with study_progress() as progress:
        healthy, calibration, anomalous = study_slices_of(study, progress)
        slices = Compared(healthy, anomalous, calibration, study.grid)
        how = {"smoothing_px": study.smoothing_px, "device": study.device, "keep": keep}
        studies = run_slice_study(study.rows, slices, progress=progress, **how)
        curve = _curve(study, healthy, anomalous, progress)
        examples = _examples(study, [healthy, *anomalous.values(), calibration], list(anomalous), keep)
    patients = len(set(healthy.patients))
    return Comparison(study.title, studies, patients, len(calibration), curve, examples)


def study_slices_of(study: Study, progress: Progress) -> tuple[StudySlices, StudySlices, dict[str, StudySlices]]:
    """Healthy slices, calibrating slices, and the healthy ones with each kind of anomaly.

    Raises:
        InputError: if a patient is on both sides.
    """
    task = progress.add_task("slices and anomalies", total=2 + len(study.makers))
    sides = []
    for source in (study.healthy, study.calibration):
        sides.append(source())
        progress.advance(task)
    healthy, calibration = sides
    shared = set(healthy.patients) & set(calibration.patients)
    if shared:
        raise InputError(f"calibration: got {len(shared)} patients of the study itself, expected others")
    anomalous = {}
    for kind, add in study.makers.items():
        anomalous[kind] = with_anomalies(healthy, add, grid=study.grid, seed=study.seed)
        progress.advance(task)
    return healthy, calibration, anomalous


def _first_klip(study: Study) -> Entry | None:
    return next((e for e in study.rows.values() if isinstance(e.method, KLIPInferer | Readings)), None)


def _curve(
    study: Study, healthy: StudySlices, anomalous: Mapping[str, StudySlices], progress: Progress
) -> DensityCurve | None:
    """The density by noise level, of a few slices; ``renoised``, whichever estimator the row has."""
    entry = _first_klip(study)
    if entry is None:
        return None
    inferer = entry.method.inferer if isinstance(entry.method, Readings) else entry.method
    assert isinstance(inferer, KLIPInferer)
    fast = inferer.changed(
        estimator="renoised", window=_CURVE_RANGE, window_levels=2 * _CURVE_BINS, samples=1, twins=0, sampler=None
    )
    edges = log_sigmas(_CURVE_BINS + 1, sigma_max=_CURVE_RANGE[0], sigma_min=_CURVE_RANGE[1]).double()
    width = float((edges[0] / edges[1]).log())
    means = []
    task = progress.add_task("density by noise level", total=1 + len(anomalous))
    for slices, region in ((healthy, healthy.body), *((s, s.masks) for s in anomalous.values())):
        pick = slice(0, _CURVE_SLICES)
        counted = beneath_skin(slices.body[pick], skin_px=inferer.reading.skin_px)
        _, total = spectra(
            slices.images[pick].to(study.device), entry.network, fast, edges=edges.tolist(), lowpass_px=[0.0]
        )
        inside = region[pick] & counted
        means.append(((total[:, 0] * inside).sum(dim=(0, 2, 3)) / inside.sum() / width).tolist())
        progress.advance(task)
    by_kind = {kind: tuple(values) for kind, values in zip(anomalous, means[1:], strict=True)}
    return DensityCurve(tuple(edges.tolist()), tuple(means[0]), by_kind)


def _examples(
    study: Study, groups: list[StudySlices], kinds: list[str], keep: str | Path | None
) -> dict[str, Examples]:
    """Maps of a few slices of each kind; read again from what was kept, if it was."""
    entry = _first_klip(study)
    if keep is None or entry is None:
        return {}
    images = torch.cat([group.images for group in groups])
    scored = score_slices(
        entry.method, images.to(study.device), entry.network, smoothing_px=study.smoothing_px, keep=keep
    )
    last = list(scored.values())[-1]
    assert last.maps is not None
    maps = smooth(last.maps[:, :1], sigma_px=last.smoothing_px).split([len(group) for group in groups])
    counted = [beneath_skin(group.body, skin_px=last.skin_px) for group in groups]
    top = float(np.quantile(maps[0][counted[0]].numpy(), RARE))
    pick = slice(0, _EXAMPLES)
    return {
        kind: Examples(group.images[pick], group.masks[pick], values[pick] * where[pick], top)
        for kind, group, values, where in zip(kinds, groups[1:-1], maps[1:-1], counted[1:-1], strict=True)
    }
