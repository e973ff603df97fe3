"""The anomaly study: healthy slices of held-out patients, and the same slices with synthetic anomalies in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.anomalies import Stars, Tumours
from klip_monai.evaluation.method import Entry, Method
from klip_monai.evaluation.metrics import Estimate, slice_level_auroc
from klip_monai.evaluation.progress import study_progress
from klip_monai.evaluation.reading import Readings
from klip_monai.evaluation.slice_study import Compared, SliceStudy, StudySlices, run_slice_study
from klip_monai.scan import Scorer
from klip_monai.scoring import ContextNull
from klip_monai.standard import PriorGrid
from klip_monai.training import SliceSet

KINDS: Mapping[str, Callable[..., tuple[torch.Tensor, torch.Tensor] | None]] = {
    "tumours, 65-145 HU": Tumours(),
    "tumours, 20-65 HU": Tumours(contrast_hu=(20.0, 65.0)),
    "stars": Stars(),
}
"""Kinds of anomaly; the first and the last are the paper's."""

_TRIES = 20  # anomalies of other sizes to try before a slice without room is passed over


@dataclass(frozen=True)
class AnomalyStudy:
    """Result of :func:`run_anomaly_study`.

    Attributes:
        studies: by kind of anomaly.
        healthy: slices by data set.
        separation: by data set, slice-level AUROC of its healthy slices (as if anomalous) against those of all others,
            under the first row; away from 0.5 the score tells data sets apart. Empty with one data set.
        patients: number of patients (or ranges of slices) they come from.
        calibration: number of slices that calibrated.
        stride: every how manieth slice was taken.
        seed: of the anomalies.
    """

    studies: Mapping[str, SliceStudy]
    healthy: Mapping[str, int]
    separation: Mapping[str, Estimate]
    patients: int
    calibration: int
    stride: int
    seed: int


def healthy_slices(data: SliceSet, *, stride: int) -> StudySlices:
    """Every ``stride``-th slice of a slice set, as it is; pixels whose HU are unknown do not count."""
    chosen = range(0, len(data), stride)
    images, body = data.stacked(chosen)
    return StudySlices(images, torch.zeros_like(body), body, tuple(data.group_of(index).group for index in chosen))


def with_anomalies(
    healthy: StudySlices,
    add: Callable[..., tuple[torch.Tensor, torch.Tensor] | None],
    *,
    grid: PriorGrid,
    seed: int,
) -> StudySlices:
    """The same slices with one anomaly each; slices that have no room for one are passed over.

    Args:
        healthy: the slices.
        add: an anomaly, such as :class:`klip_monai.evaluation.anomalies.Tumours`.
        grid: their format.
        seed: of the anomalies.

    Raises:
        InputError: if no slice has room.
    """
    made = []
    for index, (image, body) in enumerate(zip(healthy.images, healthy.body, strict=True)):
        rng = np.random.default_rng([seed, index])
        for _ in range(_TRIES):
            result = add(image, body, grid, rng)
            if result is not None and bool(result[1].any()):
                made.append((*result, body, healthy.patients[index]))
                break
    if not made:
        raise InputError(f"slices: none of {len(healthy)} has room for an anomaly; give slices of the abdomen")
    images, masks, bodies, patients = zip(*made, strict=True)
    return StudySlices(torch.stack(images), torch.stack(masks), torch.stack(bodies), tuple(patients))


def run_anomaly_study(
    scorer: Scorer,
    rows: Mapping[str, Method | Readings],
    *,
    healthy: SliceSet,
    calibration: SliceSet,
    stride: int = 3,
    seed: int = 0,
    block_px: int = 8,
    nulls: Mapping[str, ContextNull] | None = None,
    keep: str | Path | None = None,
) -> AnomalyStudy:
    """Score held-out healthy slices, and the same slices with anomalies, under each of several settings.

    Args:
        scorer: the prior, and where it is.
        rows: methods by name; the first one's figures are also given by size.
        healthy: slices of patients that neither trained the prior nor chose its settings.
        calibration: healthy slices of yet other patients, that each row's expected density is taken from.
        stride: every how manieth slice to take; neighbours show the same anatomy again.
        seed: of the anomalies.
        block_px: side of the blocks, in pixels.
        nulls: for rows whose maps another null calibrates than ``calibration``, that null, by the row's name.
        keep: folder to keep scores in; the same study run again goes on from there. None keeps nothing.

    Raises:
        InputError: for too few slices, slices without room for anomalies, or a patient on both sides.
    """
    shared = {group.group for group in healthy.groups} & {group.group for group in calibration.groups}
    if shared:
        raise InputError(f"calibration: got {len(shared)} groups of the study itself, expected other patients")
    well, null = healthy_slices(healthy, stride=stride), healthy_slices(calibration, stride=stride)
    with study_progress() as progress:
        ill = _anomalous(well, grid=healthy.grid, seed=seed, progress=progress)
        entries = {name: Entry(method, scorer.network, (nulls or {}).get(name)) for name, method in rows.items()}
        slices = Compared(well, ill, null, healthy.grid)
        studies = run_slice_study(
            entries, slices, progress=progress, block_px=block_px, device=scorer.device, keep=keep
        )
    sources = [healthy.group_of(index).source for index in range(0, len(healthy), stride)]
    by_source = {source: sources.count(source) for source in sorted(set(sources))}
    scores = next(iter(studies.values())).rows[0].healthy_scores
    separation = _separation(scores, sources, well.patients) if len(by_source) > 1 else {}
    return AnomalyStudy(studies, by_source, separation, len(set(well.patients)), len(null), stride, seed)


def _separation(scores: Sequence[float], sources: Sequence[str], patients: Sequence[Hashable]) -> dict[str, Estimate]:
    """AUROC of the scores of each source against those of the others."""
    result = {}
    for source in sorted(set(sources)):
        inside = [s == source for s in sources]
        outside = [not chosen for chosen in inside]
        both = [list(compress(patients, chosen)) for chosen in (outside, inside)]
        pair = [list(compress(scores, chosen)) for chosen in (outside, inside)]
        result[source] = slice_level_auroc(*pair, patients=both)
    return result


def _anomalous(healthy: StudySlices, *, grid: PriorGrid, seed: int, progress: Progress) -> dict[str, StudySlices]:
    tracked = progress.track(KINDS.items(), description="anomalies")
    return {kind: with_anomalies(healthy, add, grid=grid, seed=seed) for kind, add in tracked}
