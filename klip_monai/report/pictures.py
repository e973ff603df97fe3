"""Drawing that every page shares: a slice with its heat map and contours, and the scale of colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from klip_monai.io.write.segments import SEGMENTS
from klip_monai.report.display import COLOUR_MAP, WINDOW_LEVEL_HU, WINDOW_WIDTH_HU
from klip_monai.report.preview_geometry import Plane, PreviewScan, SliceView

OBLIQUE_DEGREES = 1.0
"""A scan that leans more than this is named oblique."""
TEXT, MUTED = "#eceff1", "#9aa5b1"
HALO = [withStroke(linewidth=2.5, foreground="#000000")]
_PANEL, _FRAME, _GUIDE, _LETTER = "#000000", "#2a3038", "#5fd3f3", "#b8e8fa"
_COLOUR_MAP = matplotlib.colormaps[COLOUR_MAP]
_MAX_ALPHA = 0.85

Limits = tuple[float, float, float, float]


def write_png(figure: Figure, file: str | Path | IO[bytes]) -> None:
    """Draw a figure without transparency; level 4 packs noisy slices to 1.05 times the least in the time of level 6."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)


def panel(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """A black cell without ticks at (left, bottom, width, height), parts of the figure."""
    axes = figure.add_axes(place)
    axes.set_facecolor(_PANEL)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_FRAME)
    return axes


def draw_slice(
    axes: Axes,
    scan: PreviewScan,
    plane: Plane,
    index: int,
    colours: Normalize,
    *,
    box: tuple[slice, slice, slice],
    rank: str,
    size: float = 1.0,
    guides: bool = False,
) -> None:
    """Draw CT, heat map, contours, numbers and marks of a slice in a cell.

    Args:
        axes: the cell; the picture keeps its proportions within.
        scan: what to cut the slice from.
        plane: of the slice.
        index: its number along the plane's normal, counted towards patient right, anterior or superior.
        colours: scale of the heat map.
        box: part of the scan to show.
        rank: what is shown, a word or two.
        size: of letters and lines; 1 is right for a cell five inches wide.
        guides: whether strokes at the edges point at the worst voxel.
    """
    limits = _draw_view(axes, scan.view(plane, index, box=box), colours, rank=rank, size=size)
    for number, (x, y) in scan.numbers_in(plane, index, box=box):
        style: dict[str, Any] = {"weight": "bold", "path_effects": HALO, "va": "bottom"}
        axes.text(x, y, str(number), color=TEXT, fontsize=11 * size, **style)
    if guides:
        _draw_guides(axes, scan.picture_position(plane, scan.worst_voxel, box=box), limits)


def _draw_view(axes: Axes, view: SliceView, colours: Normalize, *, rank: str, size: float) -> Limits:
    """Give the cell's limits (left, right, bottom, top) in mm."""
    rows, columns = view.ct.shape
    width, height = columns * view.spacing[1], rows * view.spacing[0]
    extent = (0.0, width, 0.0, height)
    low = WINDOW_LEVEL_HU - WINDOW_WIDTH_HU / 2
    axes.imshow(
        view.ct,
        cmap="gray",
        vmin=low,
        vmax=low + WINDOW_WIDTH_HU,
        origin="lower",
        extent=extent,
        interpolation="bicubic",
    )
    axes.imshow(overlay(view.heatmap, colours), origin="lower", extent=extent, interpolation="bilinear")
    # One row and column of background on each side closes contours at the border of the scan.
    x = (np.arange(-1, columns + 1) + 0.5) * view.spacing[1]
    y = (np.arange(-1, rows + 1) + 0.5) * view.spacing[0]
    if view.region is not None and view.region.any():
        outline = axes.contour(x, y, np.pad(view.region, 1), levels=[0.5], colors=[TEXT], linewidths=0.9 * size)
        outline.set(linestyle=(0, (5, 4)), path_effects=[withStroke(linewidth=2.2 * size, foreground="#000000a0")])
    for segment in SEGMENTS:
        inside = np.pad(view.labels >= segment.value, 1)
        if inside.any():
            outline = axes.contour(x, y, inside, levels=[0.5], colors=[segment.rgb], linewidths=1.3 * size)
            outline.set_path_effects([withStroke(linewidth=2.6 * size, foreground="#000000a0")])
    limits = _fit(axes, width, height)
    _draw_marks(axes, view, rank, limits, size=size)
    return limits


def overlay(heatmap: npt.NDArray[Any], colours: Normalize) -> npt.NDArray[np.float64]:
    """RGBA (rows, columns, 4) of a heat map; transparent at the low end of the scale, with a smooth step in between."""
    t = np.asarray(colours(heatmap), dtype=np.float64)
    rgba = np.asarray(_COLOUR_MAP(t), dtype=np.float64)
    rgba[..., 3] = _MAX_ALPHA * t * t * (3.0 - 2.0 * t)
    return rgba


def _fit(axes: Axes, width: float, height: float) -> Limits:
    """Centre a picture of width x height mm in its cell without distortion."""
    cell = axes.get_window_extent()
    scale = max(width / cell.width, height / cell.height) * 1.02
    half_width, half_height = scale * cell.width / 2, scale * cell.height / 2
    limits = width / 2 - half_width, width / 2 + half_width, height / 2 - half_height, height / 2 + half_height
    axes.set_aspect("auto")
    axes.set_xlim(limits[0], limits[1])
    axes.set_ylim(limits[2], limits[3])
    return limits


def _draw_marks(axes: Axes, view: SliceView, rank: str, limits: Limits, *, size: float) -> None:
    """Plane and position, orientation letters, maximum, and a 50 mm bar."""
    style: dict[str, Any] = {"transform": axes.transAxes, "path_effects": HALO}
    axes.text(0.02, 0.975, view.plane.upper(), color=TEXT, fontsize=12 * size, weight="bold", va="top", **style)
    axes.text(0.02, 0.925, view.position, color=TEXT, fontsize=11 * size, va="top", **style)
    axes.text(0.98, 0.975, rank, color=TEXT, fontsize=12 * size, ha="right", va="top", **style)
    axes.text(
        0.98, 0.925, f"max {view.heatmap.max():.3g}", color=TEXT, fontsize=11 * size, ha="right", va="top", **style
    )
    places = ((0.015, 0.5, "left"), (0.985, 0.5, "right"), (0.5, 0.975, "center"), (0.5, 0.025, "center"))
    for letter, (x, y, align) in zip(view.edges, places, strict=True):
        vertical = "top" if y > 0.9 else "bottom" if y < 0.1 else "center"
        axes.text(x, y, letter, color=_LETTER, fontsize=14 * size, weight="bold", ha=align, va=vertical, **style)
    left, right, bottom, top = limits
    start, level = left + 0.02 * (right - left), bottom + 0.03 * (top - bottom)
    axes.plot(
        [start, start + 50.0],
        [level, level],
        color=TEXT,
        linewidth=2.5 * size,
        solid_capstyle="butt",
        path_effects=HALO,
    )
    axes.text(
        start + 25.0,
        level + 0.012 * (top - bottom),
        "50 mm",
        color=TEXT,
        fontsize=9 * size,
        ha="center",
        va="bottom",
        path_effects=HALO,
    )


def _draw_guides(axes: Axes, place: tuple[float, float], limits: Limits) -> None:
    """Short strokes at the edges that point at the worst voxel and leave it free."""
    left, right, bottom, top = limits
    across, along = 0.045 * (right - left), 0.045 * (top - bottom)
    offset_x, offset_y = 0.05 * (right - left), 0.11 * (top - bottom)
    style: dict[str, Any] = {"color": _GUIDE, "linewidth": 1.2, "path_effects": HALO}
    for x in (left + offset_x, right - offset_x - across):
        axes.plot([x, x + across], [place[1], place[1]], **style)
    for y in (bottom + offset_y, top - offset_y - along):
        axes.plot([place[0], place[0]], [y, y + along], **style)


def draw_scale(
    bar: Axes, colours: Normalize, *, thresholds: Sequence[float] = (), ink: str = MUTED, fontsize: float = 10
) -> None:
    """Fill axes with the colours of a scale.

    Args:
        bar: the axes, wide and low.
        colours: the scale.
        thresholds: one a segment, marked in its colour.
        ink: colour of the numbers.
        fontsize: of the numbers, points.
    """
    low, high = float(colours.vmin or 0.0), float(colours.vmax or 0.0)
    strip = overlay(np.linspace(low, high, 512)[np.newaxis], colours)
    # The bar lies on the mid grey of soft tissue, so that its colours are those in the pictures.
    strip[..., :3] = strip[..., :3] * strip[..., 3:] + 0.45 * (1.0 - strip[..., 3:])
    bar.imshow(strip[..., :3], extent=(low, high, 0.0, 1.0), aspect="auto")
    for segment, threshold in zip(SEGMENTS, thresholds, strict=False):
        if low <= threshold <= high:
            bar.plot([threshold], [1.3], marker="v", color=segment.rgb, markersize=9, markeredgewidth=0, clip_on=False)
            bar.axvline(threshold, color=segment.rgb, linewidth=1.8)
    bar.set_xlim(low, high)
    bar.set_ylim(0.0, 1.0)
    bar.set_yticks([])
    bar.set_xticks(np.linspace(low, high, 5))
    bar.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.tick_params(colors=ink, labelsize=fontsize)
    for spine in bar.spines.values():
        spine.set_visible(False)
