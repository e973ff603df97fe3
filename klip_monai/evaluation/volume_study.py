"""The volume study: healthy scans with one synthetic lesion each, which goes on from slice to slice, scored whole."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress, TaskID

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import Estimate, Values, auroc, bootstrap, slice_scores
from klip_monai.evaluation.peaks import Peaks, find_peaks, sensitivity_at
from klip_monai.evaluation.precision_recall import average_precision
from klip_monai.evaluation.progress import steps, study_progress
from klip_monai.evaluation.side_by_side import Memory, passes_of, remembering
from klip_monai.evaluation.volume_anomalies import SliceStack, VolumeStars, VolumeTumours
from klip_monai.evaluation.volume_scans import HealthyVolume, HealthyVolumes
from klip_monai.scan import Scorer

Maker = Callable[[SliceStack, np.random.Generator], tuple[torch.Tensor, torch.Tensor] | None]

VOLUME_KINDS: Mapping[str, Maker] = {
    "tumours, 65-145 HU": VolumeTumours(),
    "tumours, 20-65 HU": VolumeTumours(contrast_hu=(20.0, 65.0)),
    "stars": VolumeStars(),
}
"""Kinds of lesion, as those of the anomaly study."""

_TRIES = 20  # lesions of other sizes to try before a scan without room is passed over


@dataclass(frozen=True)
class StudiedScan:
    """A healthy scan of the study.

    Attributes:
        name: of it.
        slices: number of slices.
        slice_mm: their distance, mm.
        assumed: whether that is not known but assumed.
        lesions: number of copies, with one lesion each.
    """

    name: str
    slices: int
    slice_mm: float
    assumed: bool
    lesions: int


@dataclass(frozen=True)
class VolumeLesion:
    """A lesion, the only one in its copy of a scan.

    Attributes:
        kind: of it.
        scan: number of its scan, from 0.
        slices: number of slices that it is in.
        radius_mm: of the ball that has its volume.
        prevalence: share of the scan's in-body pixels that are in it: the average precision of chance.
    """

    kind: str
    scan: int
    slices: int
    radius_mm: float
    prevalence: float


@dataclass(frozen=True)
class LesionScore:
    """What one heat map makes of a lesion.

    Attributes:
        image_level: AUROC over the in-body pixels of each lesion slice, mean over them.
        average_precision: over the in-body pixels of the scan.
        slice_level: AUROC of the slices' in-body maxima, without against with the lesion; None if it is in all of them.
        found_first: whether its highest value exceeds all others in the body.
    """

    image_level: float
    average_precision: float
    slice_level: float | None
    found_first: bool


@dataclass(frozen=True)
class VolumeFigures:
    """Means over lesions of one kind, intervals over people.

    Attributes:
        low_mm: least radius among them.
        high_mm: largest.
        lesions: number of lesions.
        image_level: see :class:`LesionScore`, as the next two.
        average_precision: its chance is ``prevalence``.
        slice_level: None where every lesion is in all slices.
        found_first: share of lesions whose highest value exceeds all others in the body.
        found_at_one: share of lesions with a peak above the level at which copies have one false peak on average; the
            level is that of these lesions' copies.
        prevalence: mean share of the in-body pixels that are in the lesion.
    """

    low_mm: float
    high_mm: float
    lesions: int
    image_level: Estimate
    average_precision: Estimate
    slice_level: Estimate | None
    found_first: Estimate
    found_at_one: Estimate
    prevalence: float


@dataclass(frozen=True)
class VolumeStudy:
    """Result of :func:`run_volume_study`.

    Attributes:
        scans: the healthy scans.
        people: number of people they are of.
        lesions: one in each copy.
        scores: by name, what it makes of each of ``lesions``.
        figures: by kind and name, of all lesions of the kind and then of those of each tercile of the radius.
        seed: of the lesions.
    """

    scans: tuple[StudiedScan, ...]
    people: int
    lesions: tuple[VolumeLesion, ...]
    scores: Mapping[str, tuple[LesionScore, ...]]
    figures: Mapping[str, Mapping[str, tuple[VolumeFigures, ...]]]
    seed: int


def run_volume_study(
    scores: Mapping[str, Scorer],
    volumes: HealthyVolumes | Sequence[HealthyVolume],
    *,
    kinds: Mapping[str, Maker] = VOLUME_KINDS,
    lesions: int = 4,
    seed: int = 0,
) -> VolumeStudy:
    """Put lesions into copies of healthy scans, one into each, and score every copy under each of several settings.

    All settings see the same lesions. The network sees every slice of a scan once, and of each copy the slices that the
    lesion changes; settings that differ only in what is made of its passes share them.

    Args:
        scores: transforms by name. Their inferers are asked for heat maps at the distance of a scan's slices; without
            ``lowpass_z_mm`` and ``smoothing_z_mm`` they read each slice by itself.
        volumes: healthy scans of people that neither trained the prior nor chose its settings.
        kinds: makers of lesions by kind.
        lesions: copies of each scan for each kind.
        seed: of the lesions.

    Raises:
        InputError: without scores, kinds or lesions, for scores of other slice formats than the scans, or if no scan
            has room for a lesion.
    """
    if not scores or not kinds or lesions < 1:
        raise InputError(
            f"study: got {len(scores)} scores, {len(kinds)} kinds and {lesions} lesions of each, expected at least one "
            "of each"
        )
    scans: list[StudiedScan] = []
    people: list[Hashable] = []
    made: list[VolumeLesion] = []
    found: dict[str, list[LesionScore]] = {name: [] for name in scores}
    peaks: dict[str, list[Peaks]] = {name: [] for name in scores}
    with study_progress() as progress:
        for volume in progress.track(volumes, total=len(volumes), description="scans"):
            slices, before = volume.slices, len(made)
            _check_grids(scores, slices)
            for kind, mask, heats in _scored_copies(
                scores, slices, kinds, lesions, seed=(seed, len(scans)), progress=progress
            ):
                made.append(_described(mask, slices, kind=kind, scan=len(scans)))
                for name, heat in heats:
                    found[name].append(lesion_score(heat, mask, slices.body))
                    peaks[name].append(lesion_peaks(heat, mask, slices))
            count = len(made) - before
            scans.append(StudiedScan(volume.name, len(slices), slices.slice_mm, volume.assumed, count))
            people.append(volume.person)
    if not scans:
        raise InputError(
            "scans: got none whose slices have a known distance, expected at least one; assume one with assumed_mm"
        )
    if not made:
        raise InputError(f"scans: none of {len(scans)} has room for a lesion; give scans of the abdomen")
    of_people = [people[lesion.scan] for lesion in made]
    figures = {
        kind: {name: _by_radius(made, found[name], peaks[name], of_people, kind=kind) for name in scores}
        for kind in dict.fromkeys(lesion.kind for lesion in made)
    }
    results = {name: tuple(each) for name, each in found.items()}
    return VolumeStudy(tuple(scans), len(set(people)), tuple(made), results, figures, seed)


def _check_grids(scores: Mapping[str, Scorer], slices: SliceStack) -> None:
    for name, score in scores.items():
        if score.grid != slices.grid:
            raise InputError(f"score {name!r}: got one of {score.grid}, expected {slices.grid}, that of the scans")


def _scored_copies(
    scores: Mapping[str, Scorer],
    slices: SliceStack,
    kinds: Mapping[str, Maker],
    lesions: int,
    *,
    seed: tuple[int, int],
    progress: Progress,
) -> Iterator[tuple[str, torch.Tensor, Iterator[tuple[str, torch.Tensor]]]]:
    """Kind, mask and, by name, heat maps of each copy of a scan that had room for its lesion."""
    tasks = progress.add_task("lesions", total=len(kinds) * lesions), progress.add_task("slices", total=len(slices))
    healthy: Memory = {}
    for score in {passes_of(score): score for score in scores.values()}.values():
        _heat(score, slices.images, slices, healthy, progress, tasks[1])
    for kind, lesion in _inserted(slices, kinds, lesions, seed=seed):
        if lesion is not None:
            images, mask = lesion
            memory: Memory = ChainMap({}, healthy)  # forgets this copy afterwards, and keeps the scan
            heats = ((name, _heat(s, images, slices, memory, progress, tasks[1])) for name, s in scores.items())
            yield kind, mask, heats
        progress.advance(tasks[0])
    for task in tasks:
        progress.remove_task(task)


def _heat(
    score: Scorer, images: torch.Tensor, slices: SliceStack, memory: Memory, progress: Progress, task: TaskID
) -> torch.Tensor:
    one = remembering(score, memory)
    return one.heatmap(images, slices.body, slice_mm=slices.slice_mm, progress=steps(progress, task))


def _inserted(
    slices: SliceStack, kinds: Mapping[str, Maker], lesions: int, *, seed: tuple[int, int]
) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor] | None]]:
    """Kind, and the slices with a lesion and its mask, or None without room, for each copy of a scan."""
    for number, (kind, make) in enumerate(kinds.items()):
        for copy in range(lesions):
            rng = np.random.default_rng([*seed, number, copy])
            tried = (make(slices, rng) for _ in range(_TRIES))
            yield kind, next((result for result in tried if result is not None and bool(result[1].any())), None)


def _described(mask: torch.Tensor, slices: SliceStack, *, kind: str, scan: int) -> VolumeLesion:
    pixels = int(mask.sum())
    radius = (3 * pixels * float(np.prod(slices.spacing_mm)) / (4 * np.pi)) ** (1 / 3)
    ill = int(mask.flatten(1).any(dim=1).sum())
    return VolumeLesion(kind, scan, ill, float(radius), pixels / int(slices.body.sum()))


def lesion_score(heat: torch.Tensor, mask: torch.Tensor, body: torch.Tensor) -> LesionScore:
    """What a heat map makes of a lesion.

    Args:
        heat: float (Z, 1, H, W), higher means more anomalous.
        mask: bool (Z, 1, H, W), True in the lesion, which lies in the body and does not fill it in any slice.
        body: bool (Z, 1, H, W); pixels outside do not count.

    Raises:
        InputError: if the mask is empty or fills the body of a slice.
    """
    ill = mask.flatten(1).any(dim=1)
    per_slice = [auroc(heat[z][body[z]].numpy(), mask[z][body[z]].numpy()) for z in torch.nonzero(ill)[:, 0].tolist()]
    if not per_slice:
        raise InputError("mask: got no lesion pixel, expected some")
    shown = body.flatten(1).any(dim=1)
    some = not bool(ill[shown].all())
    return LesionScore(
        image_level=float(np.mean(per_slice)),
        average_precision=average_precision(heat[body].numpy(), mask[body].numpy()),
        slice_level=auroc(slice_scores(heat[shown], body[shown]), ill[shown].numpy()) if some else None,
        found_first=bool(heat[mask].max() > heat[body & ~mask].max()),
    )


def lesion_peaks(heat: torch.Tensor, mask: torch.Tensor, slices: SliceStack) -> Peaks:
    """Peaks of a heat map, float (Z, 1, H, W), and whether each lies in a lesion, bool (Z, 1, H, W): 1, or else 0."""
    inside = (heat * slices.body)[:, 0].numpy()
    return find_peaks(inside, mask[:, 0].numpy().astype(np.uint8), spacing_mm=slices.spacing_mm)


def _by_radius(
    lesions: Sequence[VolumeLesion],
    scores: Sequence[LesionScore],
    peaks: Sequence[Peaks],
    people: Sequence[Hashable],
    *,
    kind: str,
) -> tuple[VolumeFigures, ...]:
    """Figures of all lesions of a kind, and of those of each tercile of the radius if there are three or more."""
    chosen = np.array([number for number, lesion in enumerate(lesions) if lesion.kind == kind])
    by_radius = chosen[np.argsort([lesions[n].radius_mm for n in chosen], kind="stable")]
    terciles = np.array_split(by_radius, 3) if len(chosen) >= 3 else []
    groups = [group.tolist() for group in (by_radius, *terciles)]
    return tuple(_figures(*([each[n] for n in some] for each in (lesions, scores, peaks, people))) for some in groups)


def _figures(
    lesions: list[VolumeLesion], scores: list[LesionScore], peaks: list[Peaks], people: list[Hashable]
) -> VolumeFigures:
    def mean(values: Sequence[float | None]) -> Estimate | None:
        known = [(value, person) for value, person in zip(values, people, strict=True) if value is not None]
        if not known:
            return None
        return bootstrap(_mean, [value for value, _ in known], patients=[[person for _, person in known]])

    def needed(values: Sequence[float]) -> Estimate:
        return bootstrap(_mean, values, patients=[people])

    radii = [lesion.radius_mm for lesion in lesions]
    return VolumeFigures(
        low_mm=min(radii),
        high_mm=max(radii),
        lesions=len(lesions),
        image_level=needed([score.image_level for score in scores]),
        average_precision=needed([score.average_precision for score in scores]),
        slice_level=mean([score.slice_level for score in scores]),
        found_first=needed([float(score.found_first) for score in scores]),
        found_at_one=sensitivity_at(peaks, [1] * len(peaks), false_positives=1.0, patients=people),
        prevalence=_mean(np.array([lesion.prevalence for lesion in lesions])),
    )


def _mean(values: Values) -> float:
    return float(np.mean(values))
