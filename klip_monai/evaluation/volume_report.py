"""The volume study as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from klip_monai.evaluation.tables import save_report, table
from klip_monai.evaluation.volume_study import VolumeFigures, VolumeStudy

_HEAD = ["settings", "radius, mm", "lesions", "image-level", "average precision (chance)", "slice-level"]
_HEAD += ["highest of all", "at one false peak"]


def volumes_to_markdown(study: VolumeStudy) -> str:
    """The study as Markdown: a table for each kind of lesion, a line for each setting and tercile of the radius."""
    lines = [
        "# Synthetic lesions in healthy scans",
        "",
        f"{len(study.lesions)} lesions, each alone in its copy of one of {len(study.scans)} scans of {study.people} "
        f"people (seed {study.seed}). {_distances(study)}",
        "",
        "Image-level: AUROC over the in-body pixels of each lesion slice, mean over them. Average precision: over the "
        "in-body pixels of the whole copy; that of chance in brackets. Slice-level: AUROC of the slices' highest "
        "in-body values, those without against those with the lesion. Highest of all: share of lesions whose highest "
        "value exceeds all others in the body, so that no false finding comes first. At one false peak: share of "
        "lesions with a peak above the level at which the copies of a line have one false peak on average. Means over "
        "lesions, in brackets 95 % bootstrap intervals over people. Radius: of the ball of the lesion's volume; all "
        "lesions of a kind first, then its terciles.",
        "",
    ]
    for kind, by_name in study.figures.items():
        rows = [_row(name, figures) for name, groups in by_name.items() for figures in groups]
        lines += [f"## {kind[0].upper()}{kind[1:]}", "", *table(_HEAD, rows), ""]
    scans = [
        [scan.name, str(scan.slices), f"{scan.slice_mm:.3g}{' (assumed)' if scan.assumed else ''}", str(scan.lesions)]
        for scan in study.scans
    ]
    return "\n".join([*lines, "## Scans", "", *table(["scan", "slices", "mm apart", "lesions"], scans), ""])


def _row(name: str, figures: VolumeFigures) -> list[str]:
    return [
        name,
        f"{figures.low_mm:.1f} to {figures.high_mm:.1f}",
        str(figures.lesions),
        str(figures.image_level),
        f"{figures.average_precision} ({figures.prevalence:.2g})",
        "none" if figures.slice_level is None else str(figures.slice_level),
        str(figures.found_first),
        str(figures.found_at_one),
    ]


def _distances(study: VolumeStudy) -> str:
    assumed = [scan for scan in study.scans if scan.assumed]
    if not assumed:
        return "The distance of all slices is known."
    apart = ", ".join(f"{mm:g}" for mm in sorted({scan.slice_mm for scan in assumed}))
    return (
        f"**In {len(assumed)} of the scans the distance of the slices is not known and was taken for {apart} mm**: "
        "their lesions reach over more or fewer slices than those of their size would."
    )


def save_volume_study(study: VolumeStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``volume_study.md`` and ``volume_study.json``, or neither; see :func:`save_report`."""
    save_report(output_dir, "volume_study", volumes_to_markdown(study), asdict(study), provenance=provenance)
