"""The study of labelled slices: single slices with pixel masks of their lesions, each scored by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.labelled_slices import LabelledSlices, SliceLabels, read_labelled_slices
from klip_monai.evaluation.metrics import Estimate, bootstrap
from klip_monai.evaluation.precision_recall import average_precision, pixel_average_precision
from klip_monai.evaluation.progress import steps, study_progress
from klip_monai.evaluation.tables import cell, save_report, table
from klip_monai.evaluation.tumour_figures import mean, mean_or_none, slice_aurocs
from klip_monai.evaluation.tumour_study import ONLY
from klip_monai.scan import Scorer


@dataclass(frozen=True)
class SlicesOfPerson:
    """Figures of one person's slices; None where none shows a lesion beside other pixels that count.

    Attributes:
        person: name of the group.
        slices: number of slices.
        lesion_slices: number of slices with a lesion.
        in_body: image-level AUROC in the body, mean over slices.
        in_organ: that in the organ.
        average_precision: over the in-body pixels of all slices together.
        prevalence: share of these in a lesion.
    """

    person: str
    slices: int
    lesion_slices: int
    in_body: float | None
    in_organ: float | None
    average_precision: float | None
    prevalence: float


@dataclass(frozen=True)
class SlicesOfSource:
    """Figures of one source, scored in one way; intervals over people, who do not count alike if they have more slices.

    Attributes:
        score: name of the score.
        source: the data set.
        slices: number of slices.
        lesion_slices: number of slices with a lesion.
        people: figures of each person.
        in_body: image-level AUROC in the body, mean over slices; None if no slice has a lesion.
        in_organ: that in the organ, over slices that show both; None if there is none.
        average_precision: over the in-body pixels of all slices together; None if no slice has a lesion.
        prevalence: share of these in a lesion: the average precision of chance.
        organ_average_precision: over the organ's pixels, of slices that show more of it than the lesion.
        organ_prevalence: share of these in a lesion; None if there are none.
        left_out: share of the in-body pixels that do not count, as what they show is not known or to be ignored.
    """

    score: str
    source: str
    slices: int
    lesion_slices: int
    people: tuple[SlicesOfPerson, ...]
    in_body: Estimate | None
    in_organ: Estimate | None
    average_precision: Estimate | None
    prevalence: float
    organ_average_precision: Estimate | None
    organ_prevalence: float | None
    left_out: float


@dataclass(frozen=True)
class LabelledSlicesStudy:
    """Result of :func:`run_labelled_slices_study`.

    Attributes:
        sources: figures by score and source.
        pixel_mm: pixel size taken where the manifest gives none, mm.
    """

    sources: tuple[SlicesOfSource, ...]
    pixel_mm: float


def run_labelled_slices_study(
    score: Scorer | Mapping[str, Scorer],
    folder: str | Path,
    *,
    sources: Mapping[str, Mapping[str, Any]],
    pixel_mm: float = 1.5,
) -> LabelledSlicesStudy:
    """Score labelled slices in the plane, as nothing is known of their neighbours.

    Args:
        score: the transform, or several by name, to be compared.
        folder: see :func:`klip_monai.evaluation.labelled_slices.read_labelled_slices`.
        sources: by source the attributes of its :class:`SliceLabels`.
        pixel_mm: pixel size taken where the manifest gives none, mm.

    Raises:
        InputError: without sources, for an attribute that there is not, or if the folder cannot be read.
    """
    labels = {name: _labels_of(name, given) for name, given in sources.items()}
    if not labels:
        raise InputError("sources: got none, expected what the labels of at least one source mean")
    scores = {ONLY: score} if isinstance(score, Scorer) else dict(score)
    result = []
    with study_progress() as progress:
        for name, each in scores.items():
            for slices in read_labelled_slices(folder, labels, grid=each.grid, pixel_mm=pixel_mm):
                heat = _heat(each, slices, progress=progress, name=f"{slices.source} {name}")
                result.append(figures_of(heat, slices, score=name))
    return LabelledSlicesStudy(tuple(result), pixel_mm)


def _labels_of(source: str, given: Mapping[str, Any]) -> SliceLabels:
    try:
        return SliceLabels(**given)
    except TypeError as error:
        known = ", ".join(SliceLabels.__dataclass_fields__)
        raise InputError(f"source {source}: got {', '.join(given) or 'nothing'}, expected lesion of {known}") from error


def _heat(score: Scorer, slices: LabelledSlices, *, progress: Progress, name: str) -> torch.Tensor:
    task = progress.add_task(name, total=len(slices.images))
    return score.heatmap(slices.images, slices.body, progress=steps(progress, task))


def figures_of(heat: torch.Tensor, slices: LabelledSlices, *, score: str) -> SlicesOfSource:
    """Figures of a source.

    Args:
        heat: float (B, 1, H, W), nats per pixel.
        slices: what they were made from.
        score: name of what made them.
    """
    planes = [part[:, 0] for part in (heat, slices.lesion, slices.counted, slices.organ)]
    in_body, in_organ = (slice_aurocs(planes[0], planes[1], region) for region in planes[2:])
    # Where the organ is not marked beside its lesion, precision in the organ would be a gift.
    shows = (slices.organ & ~slices.lesion).flatten(1).any(dim=1)
    organ = slices.organ & shows[:, None, None, None]
    names = np.array(slices.people)
    people = [
        _person(str(name), at, planes, in_body=in_body, in_organ=in_organ)
        for name in dict.fromkeys(slices.people)
        for at in [np.flatnonzero(names == name)]
    ]
    return SlicesOfSource(
        score=score,
        source=slices.source,
        slices=len(heat),
        lesion_slices=int(planes[1].flatten(1).any(dim=1).sum()),
        people=tuple(people),
        in_body=_mean_over(in_body, slices.people),
        in_organ=_mean_over(in_organ, slices.people),
        average_precision=_precision(heat, slices, slices.counted),
        prevalence=_share(slices.lesion, slices.counted) or 0.0,
        organ_average_precision=_precision(heat, slices, organ),
        organ_prevalence=_share(slices.lesion, organ),
        left_out=_share(~slices.counted, slices.body) or 0.0,
    )


def _person(
    name: str,
    at: np.ndarray[Any, np.dtype[np.integer[Any]]],
    planes: Sequence[torch.Tensor],
    *,
    in_body: Sequence[float | None],
    in_organ: Sequence[float | None],
) -> SlicesOfPerson:
    heat, lesion, counted, _ = (part[at] for part in planes)
    inside = heat[counted].numpy(), lesion[counted].numpy()
    return SlicesOfPerson(
        name,
        len(at),
        int(lesion.flatten(1).any(dim=1).sum()),
        mean_or_none([in_body[i] for i in at]),
        mean_or_none([in_organ[i] for i in at]),
        average_precision(*inside) if inside[1].any() else None,
        float(inside[1].mean()) if len(inside[1]) else 0.0,
    )


def _mean_over(values: Sequence[float | None], people: Sequence[str]) -> Estimate | None:
    known = [(value, person) for value, person in zip(values, people, strict=True) if value is not None]
    if not known:
        return None
    return bootstrap(mean, [value for value, _ in known], patients=[[person for _, person in known]])


def _precision(heat: torch.Tensor, slices: LabelledSlices, region: torch.Tensor) -> Estimate | None:
    if not bool((slices.lesion & region).any()):
        return None
    return pixel_average_precision(heat, slices.lesion, region, patients=slices.people)


def _share(part: torch.Tensor, region: torch.Tensor) -> float | None:
    """Share of a region's pixels that are in a part."""
    return float(part[region].float().mean()) if bool(region.any()) else None


def labelled_slices_to_markdown(study: LabelledSlicesStudy) -> str:
    """The study as Markdown tables: by score and source, and person by person."""
    head = ["score", "source", "slices", "with a lesion", "people", "in-body", "in-organ", "average precision (chance)"]
    head += ["in the organ (chance)", "left out"]
    rows = [
        [
            part.score,
            part.source,
            str(part.slices),
            str(part.lesion_slices),
            str(len(part.people)),
            *("none" if figure is None else str(figure) for figure in (part.in_body, part.in_organ)),
            f"{part.average_precision or 'none'} ({part.prevalence:.3f})",
            f"{part.organ_average_precision or 'none'} ({cell(part.organ_prevalence, 3)})",
            f"{100 * part.left_out:.0f} %",
        ]
        for part in study.sources
    ]
    by_person = [
        [
            part.score,
            part.source,
            one.person,
            f"{one.lesion_slices} of {one.slices}",
            *map(cell, (one.in_body, one.in_organ)),
            f"{cell(one.average_precision, 3)} ({one.prevalence:.3f})",
        ]
        for part in study.sources
        for one in part.people
    ]
    return "\n".join(
        [
            "# Real lesions in single slices with pixel masks",
            "",
            "Each slice is scored by itself, in the plane. In-body, in-organ: image-level AUROC over these pixels of "
            "each lesion slice, averaged over slices. Average precision (chance: the share of lesion pixels): over "
            "these pixels of all slices together; in the organ, of slices that show more of it than the lesion. Left "
            "out: in-body pixels whose source did not keep their HU, or that are to be ignored. Where no pixel size "
            f"is known, {study.pixel_mm:g} mm is taken. In square brackets 95 % bootstrap intervals over people.",
            "",
            *table(head, rows),
            "",
            "## Person by person",
            "",
            *table(["score", "source", "person", "lesion slices", "in-body", "in-organ", head[7]], by_person),
            "",
        ]
    )


def save_labelled_slices_study(
    study: LabelledSlicesStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]
) -> None:
    """Write ``labelled_slices_study.md`` and ``.json``, or neither; see :func:`save_report`."""
    text = labelled_slices_to_markdown(study)
    save_report(output_dir, "labelled_slices_study", text, asdict(study), provenance=provenance)
