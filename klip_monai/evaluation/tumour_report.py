"""The tumour study as a Markdown table, JSON and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from klip_monai.evaluation.peaks import level_at
from klip_monai.evaluation.tables import cell, save_report, table
from klip_monai.evaluation.tumour_figures import FALSE_PEAKS, LEAST_ML, REGIONS, Sensitivity, TumourRow, TumourScan
from klip_monai.evaluation.tumour_pictures import Panel, draw_panel
from klip_monai.evaluation.tumour_study import TumourStudy

_SCAN_HEAD = ["scan", "lesion slices", "lesions", "of 1 ml and more", "in-body", "in-organ", "slice-level"]
_SCAN_HEAD += ["slice-level in the organ", "average precision (chance)", "in the organ (chance)", "best Dice"]
_SCAN_HEAD += ["scan score", "p", "first true candidate"]


def tumours_to_markdown(study: TumourStudy) -> str:
    """The study as Markdown tables: scores side by side, lesions found, and each score scan by scan."""
    lines = ["# Real lesions with voxel masks", ""]
    for name, row in study.rows.items():
        found = row.found("body", least_ml=1.0, false_peaks=1.0)
        lines += [f"{_capital(name)}: of lesions of 1 ml and more, at one false peak a scan, {_in_words(found)}.", ""]
    head = ["score", "in-body", "in-organ", "average precision", "average precision in the organ"]
    head += ["found of 1 ml and more at one false peak a scan", "in the organ"]
    lines += [
        "Image-level AUROC and average precision, means over scans with lesions, and lesions found:",
        "",
        *table(head, [_row_cells(name, row) for name, row in study.rows.items()]),
        "",
        "## Lesions found, by false peaks a scan",
        "",
        "A lesion is found if a peak of the heat map lies in it that is above the level of so many false peaks a scan. "
        "In the organ: of the heat map in the organ alone. Peaks in smaller lesions are neither right nor wrong.",
        "",
        *table(
            ["score", "where", "lesions", *(f"{n:g} false" for n in FALSE_PEAKS)],
            [line for name, row in study.rows.items() for line in _free_response(name, row)],
        ),
        "",
    ]
    for name, row in study.rows.items():
        lines += [f"## {_capital(name)}, scan by scan", "", *table(_SCAN_HEAD, [*map(_scan_cells, row.scans)]), ""]
    lines += [
        "In-body, in-organ: AUROC over these pixels of each lesion slice, averaged over slices. Slice-level: AUROC "
        "of the slices' maxima, without against with a lesion. Average precision (chance: the share of lesion pixels): "
        "over the in-body, or the organ's, pixels of the whole scan; best Dice, over all thresholds, in-body. First "
        "true candidate: the rank of the first whose peak lies in a lesion, of how many. In square brackets 95 % "
        "bootstrap intervals over scans.",
        "",
    ]
    return "\n".join(lines)


def _row_cells(name: str, row: TumourRow) -> list[str]:
    figures = row.in_body, row.in_organ, row.average_precision, row.organ_average_precision
    found = [_count(row.found(region, least_ml=1.0, false_peaks=1.0)) for region in REGIONS]
    return [name, *map(str, figures), *found]


def _free_response(name: str, row: TumourRow) -> list[list[str]]:
    return [
        [
            name,
            region,
            "all" if least_ml == 0 else f"{least_ml:g} ml and more",
            *(_count(row.found(region, least_ml=least_ml, false_peaks=n)) for n in FALSE_PEAKS),
        ]
        for region in REGIONS
        for least_ml in LEAST_ML
    ]


def _count(found: Sensitivity | None) -> str:
    return "no such lesion" if found is None else f"{found.found} of {found.lesions}: {found.share}"


def _in_words(found: Sensitivity | None) -> str:
    if found is None:
        return "there is none"
    return f"**{found.found} of {found.lesions} are found ({100 * found.share.value:.0f} %)**"


def _scan_cells(scan: TumourScan) -> list[str]:
    return [
        _stem(scan.name),
        f"{scan.lesion_slices} of {scan.slices}",
        str(scan.lesions),
        str(sum(ml >= 1 for ml in scan.lesion_ml)),
        *map(cell, (scan.in_body, scan.in_organ, scan.slice_level, scan.organ_slice_level)),
        f"{cell(scan.average_precision, 3)} ({scan.prevalence:.3f})",
        f"{cell(scan.organ_average_precision, 3)} ({cell(scan.organ_prevalence, 3)})",
        cell(scan.best_dice),
        f"{scan.scan_score:.3g}",
        cell(scan.p_value),
        "unknown" if scan.candidates is None else f"{scan.first_true or 'none'} of {scan.candidates}",
    ]


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def save_tumour_study(study: TumourStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``tumour_study.md`` and ``.json``, and the pictures as ``pictures/SCORE/SCAN.png``, or nothing.

    Arguments and errors as for :func:`klip_monai.evaluation.tables.save_report`.
    """
    pictures = {f"pictures/{shown.row}/{_stem(shown.scan)}.png": _drawing(study, shown) for shown in study.panels}
    content = {"rows": {name: asdict(row) for name, row in study.rows.items()}}
    text = tumours_to_markdown(study)
    save_report(output_dir, "tumour_study", text, content, provenance=provenance, pictures=pictures)


def _drawing(study: TumourStudy, shown: Panel) -> Callable[[Path], None]:
    scans = study.rows[shown.row].scans
    scale = shown.scale or (0.0, max(scan.scan_score for scan in scans))
    return partial(draw_panel, shown=shown, scale=scale, caption=_caption(study, shown))


def _caption(study: TumourStudy, shown: Panel) -> str:
    """Whether the lesion is found at one false peak a scan, as lesions of its size are counted."""
    scans = study.rows[shown.row].scans
    level = level_at([scan.peaks for scan in scans], false_positives=1.0)
    peaks = next(scan.peaks for scan in scans if scan.name == shown.scan)
    highest = max((value for value, lesion in peaks if lesion == shown.number), default=None)
    peak = "no peak in it" if highest is None else f"highest peak in it {highest:.3g}"
    found = "found" if highest is not None and highest > level else "missed"
    lesion = f"{_stem(shown.scan)}, {shown.row}: largest lesion, {shown.ml:.1f} ml"
    return f"{lesion}, {found} at one false peak a scan ({peak})"
