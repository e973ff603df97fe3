"""A one-page picture of a case: worst axial slices, reformats through the worst voxel, scale and summary."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from klip_monai.io.write.segments import SEGMENTS
from klip_monai.report.display import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU
from klip_monai.report.pictures import (
    HALO,
    MUTED,
    OBLIQUE_DEGREES,
    TEXT,
    draw_scale,
    draw_slice,
    overlay,
    panel,
    write_png,
)
from klip_monai.report.preview_geometry import Plane, PreviewScan
from klip_monai.report.shown import Shown

_SEPARATION_MM = 15.0
_FIGURE_INCHES, _DPI = (16.0, 10.6), 120
_SIDE_FONTS = (11.5, 10.5, 9.5, 8.5)  # points; the largest that leaves the lines of the side panel apart is taken
_BACKGROUND, _CARD = "#0d1014", "#141920"
WORST_SLICE = (0.02, 0.487, 0.3133, 0.437)
"""Where a preview shows the worst axial slice: left, bottom, width and height as shares of the picture."""
_DISCLAIMER = "Research use only. Not a medical device, not for diagnosis or treatment."


def write_preview(
    path: str | Path, shown: Shown, *, title: str, thresholds: tuple[float, float], lines: Sequence[str] = ()
) -> Path:
    """Draw the three worst axial slices and the coronal and sagittal reformats through the worst voxel.

    Args:
        path: PNG file to write.
        shown: the scan, shown at window 400, level 40; its region is outlined, its places numbered where they are seen.
        title: heading; must not identify the patient.
        thresholds: heat map values from which a voxel is suspicious and strongly suspicious; marked on the colour bar.
        lines: short statements for the summary beside the reformats.

    Returns:
        The path written.
    """
    path, scan, colours = Path(path), shown.scan, Normalize(*shown.scale, clip=True)
    figure = Figure(figsize=_FIGURE_INCHES, dpi=_DPI, facecolor=_BACKGROUND)
    _draw_frame(figure, title, tilt_degrees=scan.tilt_degrees)
    _draw_views(figure, scan, colours)
    summary = _summary(scan, np.asarray(shown.labels), lines, thresholds)
    _draw_side(figure, colours, thresholds, shown.unit, summary)
    write_png(figure, path)
    return path


def write_sinogram_preview(
    path: str | Path,
    sinogram: npt.NDArray[Any],
    *,
    least_squares: npt.NDArray[Any],
    reconstruction: npt.NDArray[Any],
    heatmap: npt.NDArray[Any],
    pixel_mm: float,
    title: str,
    lines: Sequence[str],
) -> Path:
    """Draw a raw sinogram, the slice by least squares and by the prior, and the heat map over the latter.

    Colours span the heat map's own range, as no healthy scans say what a fixed scale should be.

    Args:
        path: PNG file to write.
        sinogram: (views, detectors), line integrals.
        least_squares: (H, W), shown from -1 to 1.
        reconstruction: (H, W), posterior sample in [-1, 1].
        heatmap: (H, W), nats per pixel, not negative.
        pixel_mm: side of a pixel of the slices, mm.
        title: heading; must not identify the patient.
        lines: short statements below the pictures.

    Returns:
        The path written.
    """
    path = Path(path)
    figure = Figure(figsize=(16.0, 7.2), dpi=_DPI, facecolor=_BACKGROUND)
    figure.text(0.02, 0.955, textwrap.shorten(title, 100), color=TEXT, fontsize=19, weight="bold", va="center")
    figure.text(0.5, 0.028, _DISCLAIMER, color="#ffb74d", fontsize=11.5, ha="center", va="center")
    slices: tuple[tuple[str, npt.NDArray[Any]], ...] = (
        ("least squares", least_squares),
        ("posterior sample", reconstruction),
        ("KL density over it", reconstruction),
    )
    axes = _wide_panel(figure, 0, f"sinogram, {sinogram.shape[0]} views x {sinogram.shape[1]} detectors")
    axes.imshow(sinogram, cmap="gray", aspect="auto", interpolation="bicubic")
    for column, (name, picture) in enumerate(slices, start=1):
        axes = _wide_panel(figure, column, name)
        height, width = (size * pixel_mm for size in picture.shape)
        extent = (0.0, width, height, 0.0)
        axes.imshow(picture, cmap="gray", vmin=-1, vmax=1, extent=extent, interpolation="bicubic")
        if column == 3:
            colours = Normalize(0.0, max(float(heatmap.max()), 1e-12), clip=True)
            axes.imshow(overlay(heatmap, colours), extent=extent, interpolation="bilinear")
            draw_scale(figure.add_axes((0.7635, 0.282, 0.212, 0.02)), colours)
            figure.text(0.7585, 0.322, "nats per pixel", color=TEXT, fontsize=10.5, va="center")
        bar_mm = 10.0 ** math.floor(math.log10(width / 3))
        axes.plot([0.04 * width, 0.04 * width + bar_mm], [0.96 * height] * 2, color=TEXT, linewidth=2.5)
        axes.text(
            0.04 * width, 0.935 * height, f"{bar_mm:g} mm", color=TEXT, fontsize=10, va="bottom", path_effects=HALO
        )
        axes.set_xlim(0.0, width)
        axes.set_ylim(height, 0.0)
    wrapped = [part for line in lines for part in textwrap.wrap(line, 140, subsequent_indent="   ")]
    pitch = min(0.031, 0.24 / max(len(wrapped), 1))
    for number, line in enumerate(wrapped):
        figure.text(0.02, 0.315 - number * pitch, line, color=TEXT, fontsize=11, va="center")
    write_png(figure, path)
    return path


def _wide_panel(figure: Figure, column: int, name: str) -> Axes:
    """One of four black cells side by side, named above."""
    left = 0.02 + 0.2462 * column
    axes = panel(figure, (left, 0.36, 0.2265, 0.503))
    axes.set_title(name, color=TEXT, fontsize=12, loc="left")
    return axes


def _draw_frame(figure: Figure, title: str, *, tilt_degrees: float) -> None:
    """Heading, reading conventions, and the line that must never be missing."""
    figure.text(0.02, 0.967, textwrap.shorten(title, 100), color=TEXT, fontsize=19, weight="bold", va="center")
    convention = f"W {WINDOW_WIDTH_HU:.0f}  L {WINDOW_LEVEL_HU:.0f} HU    patient right at picture left"
    if tilt_degrees > OBLIQUE_DEGREES:
        convention = f"OBLIQUE {tilt_degrees:.0f}°, planes and letters are the closest    " + convention
    figure.text(0.98, 0.967, convention, color=MUTED, fontsize=11, ha="right", va="center")
    figure.text(0.5, 0.018, _DISCLAIMER, color="#ffb74d", fontsize=11.5, ha="center", va="center")


def _draw_views(figure: Figure, scan: PreviewScan, colours: Normalize) -> None:
    """Five pictures: three axial above, coronal and sagittal below."""
    box, worst = scan.body_box(), scan.worst_voxel
    axial = scan.worst_axial_slices(3, separation_mm=_SEPARATION_MM)
    ranks = ("worst slice", "2nd", "3rd")
    for column in range(3):
        axes = _cell(figure, row=0, column=column)
        if column >= len(axial):
            axes.text(0.5, 0.5, "no further slice", color=MUTED, ha="center", va="center", transform=axes.transAxes)
            continue
        draw_slice(axes, scan, "axial", axial[column], colours, box=box, rank=ranks[column], guides=column == 0)
    reformats: tuple[tuple[Plane, int], ...] = (("coronal", worst[1]), ("sagittal", worst[0]))
    for column, (plane, index) in enumerate(reformats):
        axes = _cell(figure, row=1, column=column)
        draw_slice(axes, scan, plane, index, colours, box=box, rank="worst voxel", guides=True)


def _cell(figure: Figure, *, row: int, column: int) -> Axes:
    """One black cell of the two by three grid."""
    left, bottom, width, height = WORST_SLICE
    return panel(figure, (left + 0.3233 * column, bottom if row == 0 else 0.04, width, height))


def _summary(
    scan: PreviewScan, labels: npt.NDArray[np.uint8], lines: Sequence[str], thresholds: tuple[float, float]
) -> list[tuple[str, str]]:
    """Text of the side panel: (colour, line)."""
    voxel_ml = float(np.prod(scan.spacing)) / 1000.0
    text = [(TEXT, line) for line in lines]
    if not labels.any():
        text.append((TEXT, f"No suspicious voxel. The highest is at {scan.ras(scan.worst_voxel)}."))
    for segment, threshold in zip(SEGMENTS, thresholds, strict=True):
        volume_ml = float(np.count_nonzero(labels >= segment.value)) * voxel_ml
        text.append(
            (matplotlib.colors.to_hex(segment.rgb), f"{segment.name} (from {threshold:.3g}): {volume_ml:.1f} ml")
        )
    return text


def _draw_side(
    figure: Figure, colours: Normalize, thresholds: tuple[float, float], unit: str, text: list[tuple[str, str]]
) -> None:
    """Colour bar and summary in the sixth cell."""
    _cell(figure, row=1, column=2).set_facecolor(_CARD)
    bar = figure.add_axes((0.69, 0.385, 0.266, 0.022))
    draw_scale(bar, colours, thresholds=thresholds)
    figure.text(0.69, 0.445, f"KL density, {unit}", color=TEXT, fontsize=12.5, weight="bold", va="center")
    for size in _SIDE_FONTS:
        letters = round(54 * _SIDE_FONTS[0] / size)
        wrapped = [
            (colour, part) for colour, line in text for part in textwrap.wrap(line, letters, subsequent_indent="   ")
        ]
        pitch = min(0.0275, 0.28 / max(len(wrapped), 1))
        if pitch * 72 * _FIGURE_INCHES[1] >= 1.35 * size:
            break
    for number, (colour, line) in enumerate(wrapped):
        figure.text(0.69, 0.325 - number * pitch, line, color=colour, fontsize=size, va="center")
