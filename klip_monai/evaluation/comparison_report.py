"""A comparison as a page: tables, ROC curves, the density by noise level, and heat maps to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from klip_monai.evaluation.comparison import Comparison, DensityCurve, Examples
from klip_monai.evaluation.report import FIGURES, row_title, study_lines
from klip_monai.evaluation.slice_study import SliceStudy
from klip_monai.io.strict_json import write_json
from klip_monai.io.write.atomic import publish
from klip_monai.report.pictures import write_png

_CURVES = 10  # more ROC curves in one picture cannot be told apart
_COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]


def comparison_to_markdown(comparison: Comparison) -> str:
    """The comparison's page, which shows the pictures that :func:`save_comparison` writes beside it."""
    lines = [
        f"# {comparison.title}",
        "",
        f"{next(iter(comparison.studies.values())).healthy} healthy slices of {comparison.patients} patients, the same "
        f"slices with one anomaly each where there is room, and {comparison.calibration} slices of other patients that "
        "calibrate and fit. D_KL: the divergence of the whole slice, unrestricted; spatial: low-passed and smoothed; "
        "temporal: within the window of noise levels; KLIP: both.",
        "",
        FIGURES,
        "",
    ]
    if comparison.curve is not None:
        lines += ["![Density by noise level](density.png)", ""]
    for kind, study in comparison.studies.items():
        lines += [f"## {kind[0].upper()}{kind[1:]} ({study.anomalous} slices)", ""]
        lines += [f"![ROC curves](roc_{_slug(kind)}.png)", ""]
        if kind in comparison.examples:
            lines += [f"![Slices and heat maps](maps_{_slug(kind)}.png)", ""]
        lines += study_lines(study, "###")
    return "\n".join(lines)


def save_comparison(comparison: Comparison, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``study.md``, ``study.json`` and pictures, or nothing.

    Args:
        comparison: the result.
        output_dir: folder; made if missing.
        provenance: what was studied with what, JSON-able.

    Raises:
        OutputError: if the folder cannot be written to.
    """
    figures = asdict(replace(comparison, examples={}))
    del figures["examples"]
    with publish(output_dir, overwrite=True) as staging:
        (staging / "study.md").write_text(comparison_to_markdown(comparison), encoding="utf-8")
        write_json(staging / "study.json", figures | {"provenance": dict(provenance)})
        for kind, study in comparison.studies.items():
            write_png(_roc(kind, study), staging / f"roc_{_slug(kind)}.png")
        for kind, examples in comparison.examples.items():
            write_png(_gallery(examples), staging / f"maps_{_slug(kind)}.png")
        if comparison.curve is not None:
            write_png(_density(comparison.curve), staging / "density.png")


def _slug(kind: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in kind)


def _roc(kind: str, study: SliceStudy) -> Figure:
    """Slice-level ROC of the best rows, the best first in the legend."""
    figure = Figure(figsize=(10.5, 5.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    rows = sorted(study.rows, key=lambda row: -row.slice_level.value)
    for index, row in enumerate(rows[:_CURVES]):
        labels = [0] * len(row.healthy_scores) + [1] * len(row.scores)
        fpr, tpr, _ = roc_curve(labels, [*row.healthy_scores, *row.scores])
        label = textwrap.shorten(f"{row.slice_level.value:.3f}  {row_title(row)}", 52, placeholder=" ...")
        axes.plot(fpr, tpr, color=_COLOURS[index], linewidth=1.6, label=label)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    some = f", the best {_CURVES} of {len(rows)}" if len(rows) > _CURVES else ""
    title = f"Slice level: {kind}{some}"
    axes.set(xlabel="healthy slices called", ylabel="anomalous slices found", title=title, aspect=1)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False, title="AUROC")
    return figure


def _density(curve: DensityCurve) -> Figure:
    figure = Figure(figsize=(7.5, 4.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    middles = np.sqrt(np.multiply(curve.edges[1:], curve.edges[:-1]))
    axes.plot(middles, curve.healthy, color="#444444", linewidth=2, label="healthy, in the body")
    for index, (kind, values) in enumerate(curve.anomalous.items()):
        axes.plot(middles, values, color=_COLOURS[index], linewidth=2, label=f"within {kind}")
    axes.set(xscale="log", yscale="log", xlabel="noise level sigma", ylabel="nats per pixel and unit of ln sigma")
    axes.invert_xaxis()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _gallery(examples: Examples) -> Figure:
    """Slices above, heat maps below; the anomaly outlined; one scale, the same for all."""
    count = len(examples.images)
    figure = Figure(figsize=(2.6 * count, 5.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        image, mask, heat = (part[column, 0].numpy() for part in (examples.images, examples.masks, examples.maps))
        axes[0, column].imshow(image, cmap="gray", vmin=-1, vmax=1)
        shown = axes[1, column].imshow(heat, cmap="viridis", vmin=0, vmax=2 * examples.top)
        for row in range(2):
            axes[row, column].contour(mask, levels=[0.5], colors="#ff5252", linewidths=0.9)
            axes[row, column].set_axis_off()
    bar = figure.colorbar(shown, ax=axes[1, :].tolist(), shrink=0.85)
    bar.set_label("nats per pixel", fontsize=8)
    bar.ax.axhline(examples.top, color="white", linewidth=1)
    figure.supxlabel("red: the anomaly; white line: 99.9 % of healthy pixels lie below", fontsize=8)
    return figure
