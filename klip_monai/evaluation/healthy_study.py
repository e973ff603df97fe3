"""The healthy study: whether an ID reference keeps its promise on healthy slices that had no part in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from klip_monai.errors import InputError
from klip_monai.evaluation.progress import study_progress
from klip_monai.evaluation.scan_study import LEVEL
from klip_monai.evaluation.tables import save_report, table
from klip_monai.scan import Scorer
from klip_monai.scan.calibration import set_scans
from klip_monai.training import SliceSet


@dataclass(frozen=True)
class HealthyRun:
    """A run of neighbouring healthy slices, scored as a scan.

    Attributes:
        group: the patient or range of slices.
        source: the data set.
        scan_score: maximum of the heat map.
        p_value: against the ID reference.
        suspicious: share of the in-body pixels labelled 1 or 2, before small islands are dropped.
        strong: share labelled 2.
    """

    group: str
    source: str
    scan_score: float
    p_value: float
    suspicious: float
    strong: float


@dataclass(frozen=True)
class HealthyStudy:
    """Result of :func:`run_healthy_study`.

    Attributes:
        slices: slices of a run; None if each is all of a patient.
        runs: all of them.
        level: the p-value whose promise is checked: 0.05, or the smallest there is if that is larger.
        called: share of the runs with p at most ``level``.
    """

    slices: int | None
    runs: tuple[HealthyRun, ...]
    level: float
    called: float


def run_healthy_study(score: Scorer, data: SliceSet, *, slices: int | None = None) -> HealthyStudy:
    """Score runs of healthy slices.

    Args:
        score: the transform, with its ID reference.
        data: healthy slices of patients that had no part in the prior or its reference.
        slices: slices of a run; None takes each patient's as a whole. As the reference's scans were made.

    Raises:
        InputError: without a reference, or if no group has as many slices.
    """
    reference = score.reference
    if reference is None:
        raise InputError("score: got no ID reference, expected the one to be checked")
    groups = [group for group in data.groups for _ in range(1 if slices is None else group.slices // slices)]
    if slices is not None and not groups:
        raise InputError(f"slices: got {slices}, expected at most {max(group.slices for group in data.groups)}")
    runs = []
    with study_progress() as progress:
        scans = progress.track(set_scans(data, slices=slices), total=len(groups), description="healthy runs")
        for group, scan in zip(groups, scans, strict=True):
            heat = score.heatmap(scan.images, scan.body, slice_mm=scan.slice_mm)
            inside, highest = heat[scan.body], float(heat.max())
            runs.append(
                HealthyRun(
                    group.group,
                    group.source,
                    highest,
                    reference.p_value(highest),
                    float((inside >= reference.suspicious).float().mean()),
                    float((inside >= reference.strong).float().mean()),
                )
            )
    level = max(LEVEL, reference.least_p)
    return HealthyStudy(slices, tuple(runs), level, sum(run.p_value <= level for run in runs) / len(runs))


def healthy_to_markdown(study: HealthyStudy) -> str:
    """The study as a Markdown table, one line for each patient or range of slices."""
    groups = list(dict.fromkeys((run.source, run.group) for run in study.runs))
    rows = []
    for source, name in groups:
        runs = [run for run in study.runs if (run.source, run.group) == (source, name)]
        mean = [100 * sum(values) / len(runs) for values in zip(*((r.suspicious, r.strong) for r in runs), strict=True)]
        called = sum(run.p_value <= study.level for run in runs)
        rows.append([source, name, str(len(runs)), str(called), *(f"{share:.2g} %" for share in mean)])
    what = "patients" if study.slices is None else f"runs of {study.slices} neighbouring slices"
    total = [100 * sum(v) / len(study.runs) for v in zip(*((r.suspicious, r.strong) for r in study.runs), strict=True)]
    return "\n".join(
        [
            "# Healthy slices that had no part in the ID reference",
            "",
            f"{len(study.runs)} {what}, scored as scans. **p is at most "
            f"{study.level:.2g} in {100 * study.called:.0f} %** (promised: at most {100 * study.level:.0f} %); "
            f"{total[0]:.2g} % of the in-body pixels are suspicious (promised: 0.1 %), {total[1]:.2g} % strongly.",
            "",
            *table(["data set", "patient or range", "runs", f"p <= {study.level:.2g}", "suspicious", "strongly"], rows),
            "",
        ]
    )


def save_healthy_study(study: HealthyStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``healthy_study.md`` and ``healthy_study.json``, or neither; see :func:`save_report`."""
    save_report(output_dir, "healthy_study", healthy_to_markdown(study), asdict(study), provenance=provenance)
