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
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from klip_monai.errors import InputError
from klip_monai.io.preview_geometry import Plane, PreviewScan, SliceView
from klip_monai.io.segments import SEGMENTS
from klip_monai.io.source_grid import as_affine, as_finite_volume, as_labels

_WINDOW_WIDTH_HU, _WINDOW_LEVEL_HU = 400.0, 40.0
_SEPARATION_MM = 15.0
_OBLIQUE_DEGREES = 1.0
_FIGURE_INCHES, _DPI = (16.0, 10.6), 120
_BACKGROUND, _PANEL, _TEXT, _MUTED, _GUIDE = "#0d1014", "#000000", "#eceff1", "#9aa5b1", "#5fd3f3"
_CARD, _LETTER = "#141920", "#b8e8fa"
_COLOUR_MAP = matplotlib.colormaps["viridis"]
_MAX_ALPHA = 0.85
_HALO = [withStroke(linewidth=2.5, foreground="#000000")]
WORST_SLICE = (0.02, 0.487, 0.3133, 0.437)
"""Where a preview shows the worst axial slice: left, bottom, width and height as shares of the picture."""
_DISCLAIMER = "Research use only. Not a medical device, not for diagnosis or treatment."


def write_preview(
    path: str | Path,
    volume_hu: npt.ArrayLike | torch.Tensor,
    heatmap: npt.ArrayLike | torch.Tensor,
    labels: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike | torch.Tensor,
    *,
    title: str,
    scale: tuple[float, float],
    thresholds: tuple[float, float],
    lines: Sequence[str] = (),
    unit: str = "nats per pixel",
) -> Path:
    """Draw the three worst axial slices and the coronal and sagittal reformats through the worst voxel.

    Args:
        path: PNG file to write.
        volume_hu: (X, Y, Z) HU; shown at window 400, level 40.
        heatmap: (X, Y, Z), nats per pixel.
        labels: (X, Y, Z), 0 background, 1 suspicious, 2 strongly suspicious.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        title: heading; must not identify the patient.
        scale: heat map values shown as transparent and as the last colour; the same for every scan of a bundle.
        thresholds: heat map values from which a voxel is suspicious and strongly suspicious; marked on the colour bar.
        lines: short statements for the summary beside the reformats.
        unit: of the heat map, `scale` and `thresholds`.

    Returns:
        The path written.

    Raises:
        InputError: arrays of different shapes, values that are not finite, or a scale that does not rise.
    """
    path = Path(path)
    arrays = as_finite_volume("volume_hu", volume_hu), as_finite_volume("heatmap", heatmap), as_labels(labels)
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"volume_hu, heatmap, labels: got shapes {shapes}, expected one (X, Y, Z) for all three")
    if not np.isfinite(scale).all() or scale[0] >= scale[1]:
        raise InputError(f"scale: got {scale}, expected (low, high) in {unit} with low below high")
    scan = PreviewScan(*arrays, as_affine(affine))
    colours = Normalize(*scale, clip=True)

    figure = Figure(figsize=_FIGURE_INCHES, dpi=_DPI, facecolor=_BACKGROUND)
    _draw_frame(figure, title, tilt_degrees=scan.tilt_degrees)
    _draw_views(figure, scan, colours)
    summary = _summary(scan, arrays[2], lines, thresholds)
    _draw_side(figure, colours, thresholds, unit, summary)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
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
    figure.text(0.02, 0.955, textwrap.shorten(title, 100), color=_TEXT, fontsize=19, weight="bold", va="center")
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
            axes.imshow(_overlay(heatmap, colours), extent=extent, interpolation="bilinear")
            _draw_bar(figure.add_axes((0.7635, 0.282, 0.212, 0.02)), colours)
            figure.text(0.7585, 0.322, "nats per pixel", color=_TEXT, fontsize=10.5, va="center")
        bar_mm = 10.0 ** math.floor(math.log10(width / 3))
        axes.plot([0.04 * width, 0.04 * width + bar_mm], [0.96 * height] * 2, color=_TEXT, linewidth=2.5)
        axes.text(
            0.04 * width, 0.935 * height, f"{bar_mm:g} mm", color=_TEXT, fontsize=10, va="bottom", path_effects=_HALO
        )
        axes.set_xlim(0.0, width)
        axes.set_ylim(height, 0.0)
    wrapped = [part for line in lines for part in textwrap.wrap(line, 140, subsequent_indent="   ")]
    pitch = min(0.031, 0.24 / max(len(wrapped), 1))
    for number, line in enumerate(wrapped):
        figure.text(0.02, 0.315 - number * pitch, line, color=_TEXT, fontsize=11, va="center")
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
    return path


def _wide_panel(figure: Figure, column: int, name: str) -> Axes:
    """One of four black cells side by side, named above."""
    left = 0.02 + 0.2462 * column
    axes = figure.add_axes((left, 0.36, 0.2265, 0.503))
    axes.set_facecolor(_PANEL)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#2a3038")
    axes.set_title(name, color=_TEXT, fontsize=12, loc="left")
    return axes


def _draw_frame(figure: Figure, title: str, *, tilt_degrees: float) -> None:
    """Heading, reading conventions, and the line that must never be missing."""
    figure.text(0.02, 0.967, textwrap.shorten(title, 100), color=_TEXT, fontsize=19, weight="bold", va="center")
    convention = f"W {_WINDOW_WIDTH_HU:.0f}  L {_WINDOW_LEVEL_HU:.0f} HU    patient right at picture left"
    if tilt_degrees > _OBLIQUE_DEGREES:
        convention = f"OBLIQUE {tilt_degrees:.0f}°, planes and letters are the closest    " + convention
    figure.text(0.98, 0.967, convention, color=_MUTED, fontsize=11, ha="right", va="center")
    figure.text(0.5, 0.018, _DISCLAIMER, color="#ffb74d", fontsize=11.5, ha="center", va="center")


def _draw_views(figure: Figure, scan: PreviewScan, colours: Normalize) -> None:
    """Five pictures: three axial above, coronal and sagittal below."""
    box, worst = scan.body_box(), scan.worst_voxel
    axial = scan.worst_axial_slices(3, separation_mm=_SEPARATION_MM)
    ranks = ("worst slice", "2nd", "3rd")
    for column in range(3):
        axes = _panel(figure, row=0, column=column)
        if column >= len(axial):
            axes.text(0.5, 0.5, "no further slice", color=_MUTED, ha="center", va="center", transform=axes.transAxes)
            continue
        view = scan.view("axial", axial[column], box=box)
        limits = _draw_view(axes, view, colours, rank=ranks[column])
        if column == 0:
            _draw_guides(axes, scan.picture_position("axial", worst, box=box), limits)
    reformats: tuple[tuple[Plane, int], ...] = (("coronal", worst[1]), ("sagittal", worst[0]))
    for column, (plane, index) in enumerate(reformats):
        axes = _panel(figure, row=1, column=column)
        limits = _draw_view(axes, scan.view(plane, index, box=box), colours, rank="worst voxel")
        _draw_guides(axes, scan.picture_position(plane, worst, box=box), limits)


def _panel(figure: Figure, *, row: int, column: int) -> Axes:
    """One black cell of the two by three grid."""
    left, bottom, width, height = WORST_SLICE
    axes = figure.add_axes((left + 0.3233 * column, bottom if row == 0 else 0.04, width, height))
    axes.set_facecolor(_PANEL)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#2a3038")
    return axes


def _draw_view(axes: Axes, view: SliceView, colours: Normalize, *, rank: str) -> tuple[float, float, float, float]:
    """Draw CT, heat map, contours and marks; give the cell's limits (left, right, bottom, top) in mm."""
    rows, columns = view.ct.shape
    width, height = columns * view.spacing[1], rows * view.spacing[0]
    extent = (0.0, width, 0.0, height)
    low = _WINDOW_LEVEL_HU - _WINDOW_WIDTH_HU / 2
    axes.imshow(
        view.ct,
        cmap="gray",
        vmin=low,
        vmax=low + _WINDOW_WIDTH_HU,
        origin="lower",
        extent=extent,
        interpolation="bicubic",
    )
    axes.imshow(_overlay(view.heatmap, colours), origin="lower", extent=extent, interpolation="bilinear")
    # One row and column of background on each side closes contours at the border of the scan.
    x = (np.arange(-1, columns + 1) + 0.5) * view.spacing[1]
    y = (np.arange(-1, rows + 1) + 0.5) * view.spacing[0]
    for segment in SEGMENTS:
        inside = np.pad(view.labels >= segment.value, 1)
        if inside.any():
            outline = axes.contour(x, y, inside, levels=[0.5], colors=[segment.rgb], linewidths=1.3)
            outline.set_path_effects([withStroke(linewidth=2.6, foreground="#000000a0")])
    limits = _fit(axes, width, height)
    _draw_marks(axes, view, rank, limits)
    return limits


def _overlay(heatmap: npt.NDArray[Any], colours: Normalize) -> npt.NDArray[np.float64]:
    """Colours of a heat map; transparent at the low end of the scale, with a smooth step in between."""
    t = np.asarray(colours(heatmap), dtype=np.float64)
    rgba = np.asarray(_COLOUR_MAP(t), dtype=np.float64)
    rgba[..., 3] = _MAX_ALPHA * t * t * (3.0 - 2.0 * t)
    return rgba


def _fit(axes: Axes, width: float, height: float) -> tuple[float, float, float, float]:
    """Centre a picture of width x height mm in its cell without distortion."""
    cell = axes.get_window_extent()
    scale = max(width / cell.width, height / cell.height) * 1.02
    half_width, half_height = scale * cell.width / 2, scale * cell.height / 2
    limits = width / 2 - half_width, width / 2 + half_width, height / 2 - half_height, height / 2 + half_height
    axes.set_aspect("auto")
    axes.set_xlim(limits[0], limits[1])
    axes.set_ylim(limits[2], limits[3])
    return limits


def _draw_marks(axes: Axes, view: SliceView, rank: str, limits: tuple[float, float, float, float]) -> None:
    """Plane and position, orientation letters, maximum, and a 50 mm bar."""
    style: dict[str, Any] = {"transform": axes.transAxes, "path_effects": _HALO}
    axes.text(0.02, 0.975, view.plane.upper(), color=_TEXT, fontsize=12, weight="bold", va="top", **style)
    axes.text(0.02, 0.925, view.position, color=_TEXT, fontsize=11, va="top", **style)
    axes.text(0.98, 0.975, rank, color=_TEXT, fontsize=12, ha="right", va="top", **style)
    axes.text(0.98, 0.925, f"max {view.heatmap.max():.3g}", color=_TEXT, fontsize=11, ha="right", va="top", **style)
    places = ((0.015, 0.5, "left"), (0.985, 0.5, "right"), (0.5, 0.975, "center"), (0.5, 0.025, "center"))
    for letter, (x, y, align) in zip(view.edges, places, strict=True):
        vertical = "top" if y > 0.9 else "bottom" if y < 0.1 else "center"
        axes.text(x, y, letter, color=_LETTER, fontsize=14, weight="bold", ha=align, va=vertical, **style)
    left, right, bottom, top = limits
    start, level = left + 0.02 * (right - left), bottom + 0.03 * (top - bottom)
    axes.plot(
        [start, start + 50.0], [level, level], color=_TEXT, linewidth=2.5, solid_capstyle="butt", path_effects=_HALO
    )
    axes.text(
        start + 25.0,
        level + 0.012 * (top - bottom),
        "50 mm",
        color=_TEXT,
        fontsize=9,
        ha="center",
        va="bottom",
        path_effects=_HALO,
    )


def _draw_guides(axes: Axes, place: tuple[float, float], limits: tuple[float, float, float, float]) -> None:
    """Short strokes at the edges that point at the worst voxel and leave it free."""
    left, right, bottom, top = limits
    across, along = 0.045 * (right - left), 0.045 * (top - bottom)
    offset_x, offset_y = 0.05 * (right - left), 0.11 * (top - bottom)
    style: dict[str, Any] = {"color": _GUIDE, "linewidth": 1.2, "path_effects": _HALO}
    for x in (left + offset_x, right - offset_x - across):
        axes.plot([x, x + across], [place[1], place[1]], **style)
    for y in (bottom + offset_y, top - offset_y - along):
        axes.plot([place[0], place[0]], [y, y + along], **style)


def _summary(
    scan: PreviewScan, labels: npt.NDArray[np.uint8], lines: Sequence[str], thresholds: tuple[float, float]
) -> list[tuple[str, str]]:
    """Text of the side panel: (colour, line)."""
    voxel_ml = float(np.prod(scan.spacing)) / 1000.0
    text = [(_TEXT, line) for line in lines]
    text.append((_MUTED, f"Worst voxel at {scan.ras(scan.worst_voxel)}"))
    if not labels.any():
        text.append((_TEXT, "No suspicious voxel."))
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
    _panel(figure, row=1, column=2).set_facecolor(_CARD)
    bar = figure.add_axes((0.69, 0.385, 0.266, 0.022))
    low, high = _draw_bar(bar, colours)
    for segment, threshold in zip(SEGMENTS, thresholds, strict=True):
        if low <= threshold <= high:
            bar.plot([threshold], [1.3], marker="v", color=segment.rgb, markersize=9, markeredgewidth=0, clip_on=False)
            bar.axvline(threshold, color=segment.rgb, linewidth=1.8)
    bar.set_xlim(low, high)
    bar.set_ylim(0.0, 1.0)
    figure.text(0.69, 0.445, f"Calibrated KL density, {unit}", color=_TEXT, fontsize=12.5, weight="bold", va="center")
    wrapped = [(colour, part) for colour, line in text for part in textwrap.wrap(line, 54, subsequent_indent="   ")]
    pitch = min(0.0275, 0.27 / max(len(wrapped), 1))
    for number, (colour, line) in enumerate(wrapped):
        figure.text(0.69, 0.325 - number * pitch, line, color=colour, fontsize=11.5, va="center")


def _draw_bar(bar: Axes, colours: Normalize) -> tuple[float, float]:
    """Fill axes with the colours of a scale; give its ends."""
    low, high = float(colours.vmin or 0.0), float(colours.vmax or 0.0)
    strip = _overlay(np.linspace(low, high, 512)[np.newaxis], colours)
    # The bar lies on the mid grey of soft tissue, so that its colours are those in the pictures.
    strip[..., :3] = strip[..., :3] * strip[..., 3:] + 0.45 * (1.0 - strip[..., 3:])
    bar.imshow(strip[..., :3], extent=(low, high, 0.0, 1.0), aspect="auto")
    bar.set_xlim(low, high)
    bar.set_ylim(0.0, 1.0)
    bar.set_yticks([])
    bar.set_xticks(np.linspace(low, high, 5))
    bar.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.tick_params(colors=_MUTED, labelsize=10)
    for spine in bar.spines.values():
        spine.set_visible(False)
    return low, high
