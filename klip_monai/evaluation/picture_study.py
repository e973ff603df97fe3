"""The picture study: slices of which only the class is known, healthy against each kind of disease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.anomaly_study import healthy_slices
from klip_monai.evaluation.metrics import Estimate, Values, sensitivity, slice_level_auroc, slice_scores
from klip_monai.evaluation.progress import steps, study_progress
from klip_monai.evaluation.slice_study import StudySlices
from klip_monai.evaluation.tables import save_report, table
from klip_monai.scan import Scorer
from klip_monai.training import SliceSet


@dataclass(frozen=True)
class PictureClass:
    """One class against the healthy slices.

    Attributes:
        name: of the class.
        slices: number of slices.
        groups: number of patients or ranges of slices.
        slice_level: AUROC of the in-body maximum.
        sensitivity: share above the maximum of 95 % of the healthy slices.
    """

    name: str
    slices: int
    groups: int
    slice_level: Estimate
    sensitivity: Estimate


@dataclass(frozen=True)
class PictureStudy:
    """Result of :func:`run_picture_study`.

    Attributes:
        healthy: number of healthy slices.
        healthy_groups: number of their patients or ranges of slices.
        classes: figures of each class.
    """

    healthy: int
    healthy_groups: int
    classes: tuple[PictureClass, ...]


def run_picture_study(
    score: Scorer, folder: str | Path, *, healthy: str, classes: tuple[str, ...], stride: int = 1
) -> PictureStudy:
    """Score slices of known class.

    Args:
        score: the transform.
        folder: slice set whose splits are the classes; made by ``klip-monai prepare``.
        healthy: split of the healthy slices.
        classes: splits of the others.
        stride: every how manieth slice to take.

    Raises:
        InputError: without classes, or if a split is missing.
    """
    if not classes:
        raise InputError("classes: got none, expected the splits to compare with the healthy slices")
    slices = {
        name: healthy_slices(SliceSet(folder, split=name, grid=score.grid), stride=stride)
        for name in (healthy, *classes)
    }
    with study_progress() as progress:
        scores = {name: _scores(score, part, progress=progress, name=name) for name, part in slices.items()}
    well = slices[healthy].patients
    return PictureStudy(
        len(well),
        len(set(well)),
        tuple(
            PictureClass(
                name,
                len(slices[name]),
                len(set(slices[name].patients)),
                slice_level_auroc(scores[healthy], scores[name], patients=(well, slices[name].patients)),
                sensitivity(scores[healthy], scores[name], patients=(well, slices[name].patients)),
            )
            for name in classes
        ),
    )


def _scores(score: Scorer, slices: StudySlices, *, progress: Progress, name: str) -> Values:
    task = progress.add_task(name, total=len(slices))
    return slice_scores(score.heatmap(slices.images, slices.body, progress=steps(progress, task)), slices.body)


def pictures_to_markdown(study: PictureStudy) -> str:
    """The study as a Markdown table."""
    rows = [
        [part.name, str(part.slices), str(part.groups), str(part.slice_level), str(part.sensitivity)]
        for part in study.classes
    ]
    return "\n".join(
        [
            "# Slices of known class",
            "",
            f"{study.healthy} healthy slices of {study.healthy_groups} patients or ranges of slices. Slice-level: "
            "AUROC of the in-body maximum of the heat map. Sensitivity: at a specificity of 95 %. In brackets 95 % "
            "bootstrap intervals over patients or ranges.",
            "",
            *table(["class", "slices", "patients or ranges", "slice-level", "sensitivity"], rows),
            "",
        ]
    )


def save_picture_study(study: PictureStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``picture_study.md`` and ``picture_study.json``, or neither; see :func:`save_report`."""
    save_report(output_dir, "picture_study", pictures_to_markdown(study), asdict(study), provenance=provenance)
