"""Studies as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from klip_monai.evaluation.anomaly_study import AnomalyStudy
from klip_monai.evaluation.metrics import Estimate
from klip_monai.evaluation.phantom_study import CONTRAST_HU, RADIUS_MM, PhantomStudy
from klip_monai.evaluation.scan_study import LEVEL, ScanStudy
from klip_monai.evaluation.slice_study import Row, SliceStudy, Stratum
from klip_monai.evaluation.tables import save_report, table


def to_markdown(study: PhantomStudy, scans: ScanStudy | None = None) -> str:
    """The studies as Markdown tables: settings of the inferer, lesion sizes, and whole scans."""
    ranges = (RADIUS_MM, CONTRAST_HU, study.slice_mm)
    radius, contrast, distance = ("-".join(f"{v:g}" for v in pair) for pair in ranges)
    return "\n".join(
        [
            "# Phantom study",
            "",
            f"{len(study.healthy_seeds)} healthy and {len(study.lesion_seeds)} lesion slices, one per patient, none of "
            f"whom trained the prior; liver lesions of {radius} mm radius, {contrast} HU off the liver, each in the "
            f"slice where it is largest, slices {distance} mm apart. Healthy slices lie where a lesion would be.",
            "",
            FIGURES,
            "",
            *study_lines(study.study, "##"),
            *(_scan_lines(scans) if scans else []),
        ]
    )


FIGURES = (
    "Image-level: AUROC over the in-body pixels of an anomalous slice, averaged over slices; blocks: the same over "
    "block sums of the map before smoothing, in the body or (legacy) with background blocks as negatives, which "
    "inflates it. Pixel AP: average precision over the in-body pixels of all anomalous slices. Best Dice: at the one "
    "threshold that is best for them; Dice: above the 99.9 % quantile of healthy in-body pixels. Slice-level: AUROC of "
    "the slice score, by default the in-body maximum, healthy against anomalous; AP: its average precision; FPR95: "
    "share of healthy slices called where 95 % of the anomalous ones are; sensitivity: share of anomalous slices found "
    "at a specificity of 95 %. Calibrated: relieved of what the setting's null expects of healthy "
    "tissue. NFE: network passes a slice. In brackets 95 % bootstrap intervals over patients."
)
"""What the figures of a slice study mean."""


def study_lines(study: SliceStudy, level: str) -> list[str]:
    """Markdown tables of a study: its rows, and the first of them by size, under a heading of ``level`` (as "##")."""
    head = ["method", "image-level", "slice-level", "pixel AP", "best Dice", "Dice", "AP", "FPR95", "sensitivity"]
    head += [f"{study.block_px}-px blocks, in-body", "blocks, legacy", "NFE", "s a slice", "MB"]
    sizes = ["radius in the slice", "slices", "image-level", "slice-level", "sensitivity"]
    return [
        *table(head, [_cells(row) for row in study.rows]),
        "",
        f"{level} {row_title(study.rows[0])}, by size",
        "",
        *table(sizes, [_size_cells(stratum) for stratum in study.strata]),
        "",
    ]


def anomalies_to_markdown(study: AnomalyStudy) -> str:
    """The anomaly study as Markdown tables, one section for each kind of anomaly."""
    sources = ", ".join(f"{count} of {source}" for source, count in study.healthy.items())
    lines = [
        "# Synthetic anomalies in held-out healthy slices",
        "",
        f"{sum(study.healthy.values())} healthy slices ({sources}; every {study.stride}th slice of {study.patients} "
        "patients or ranges of slices, none of which trained the prior or chose its settings), and the same slices "
        f"with one anomaly each where there is room. Calibrated by {study.calibration} slices of other patients.",
        "",
        FIGURES,
        "",
    ]
    if study.separation:
        lines += [
            "Slice-level AUROC of the healthy slices of one data set against those of the others, first setting (0.5: "
            "the score does not tell data sets apart): "
            + ", ".join(f"{source} {figure}" for source, figure in study.separation.items())
            + ".",
            "",
        ]
    for kind, part in study.studies.items():
        lines += [f"## {kind[0].upper()}{kind[1:]} ({part.anomalous} slices)", "", *study_lines(part, "###")]
    return "\n".join(lines)


def save_anomaly_study(study: AnomalyStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``anomaly_study.md`` and ``anomaly_study.json``, or neither.

    Args:
        study: the result.
        output_dir: folder; made if missing.
        provenance: which bundle and weights were studied, JSON-able.

    Raises:
        OutputError: if the folder cannot be written to.
    """
    save_report(output_dir, "anomaly_study", anomalies_to_markdown(study), asdict(study), provenance=provenance)


def _scan_lines(scans: ScanStudy) -> list[str]:
    suspicious = sum(scan.suspicious for scan in scans.healthy) / len(scans.healthy)
    return [
        "## Whole scans",
        "",
        f"{len(scans.healthy)} healthy scans and {len(scans.lesion)} with one lesion, of {scans.slices} slices, scored "
        f"as the bundle does and compared with its ID reference. Called: p at most {LEVEL:g}. Localised: the highest "
        "pixel of the scan lies in the lesion. Suspicious: share of the healthy in-body pixels labelled 1 or 2.",
        "",
        *table(
            ["healthy called", "lesion called", "localised", "scan-level AUROC", "suspicious"],
            [
                [
                    *map(str, (scans.false_alarms, scans.found, scans.localised, scans.scan_level)),
                    f"{100 * suspicious:.2g} %",
                ]
            ],
        ),
        "",
    ]


def save_study(
    study: PhantomStudy, output_dir: str | Path, *, provenance: Mapping[str, Any], scans: ScanStudy | None = None
) -> None:
    """Write ``phantom_study.md`` and ``phantom_study.json``, or neither.

    Args:
        study: the result.
        scans: the study of whole scans, if there is one.
        output_dir: folder; made if missing.
        provenance: which bundle and weights were studied, JSON-able.

    Raises:
        OutputError: if the folder cannot be written to.
    """
    content = asdict(study) | {"scans": asdict(scans) if scans else None}
    save_report(output_dir, "phantom_study", to_markdown(study, scans), content, provenance=provenance)


def _cells(row: Row) -> list[str]:
    figures = [row.image_level, row.slice_level, row.pixel_ap, row.best_dice, row.dice, row.average_precision]
    figures += [row.fpr95, row.sensitivity, row.blocks_in_body, row.blocks_legacy]
    memory = "unknown" if row.memory_mb is None else f"{row.memory_mb:.0f}"
    return [row_title(row), *map(_figure, figures), str(row.passes), f"{row.seconds:.2g}", memory]


def _size_cells(stratum: Stratum) -> list[str]:
    high = stratum.high_mm
    size = f"{stratum.low_mm:g} mm and more" if high is None else f"{stratum.low_mm:g} to {high:g} mm"
    figures = (stratum.image_level, stratum.slice_level, stratum.sensitivity)
    return [size, str(stratum.slices), *map(_figure, figures)]


def _figure(figure: Estimate | None) -> str:
    return "none" if figure is None else str(figure)


def row_title(row: Row) -> str:
    """A row's name as it is shown."""
    return row.name.replace("_", " ") + (", calibrated" if row.calibrated else "")
