"""Pictures of the tumour study: of each scan the slice that shows most of its largest lesion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from klip_monai.evaluation.tumour_figures import TumourScan, labelled_heat, lesion_parts
from klip_monai.report.display import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU
from klip_monai.report.pictures import MUTED, TEXT, draw_scale, draw_slice, panel, write_png
from klip_monai.report.preview_geometry import PreviewScan
from klip_monai.scan import Scorer
from klip_monai.standard import AIR_HU, StandardSlices

_INCHES, _DPI = (8.4, 4.9), 90
_BACKGROUND = "#0d1014"


@dataclass(frozen=True, eq=False)
class Panel:
    """What one picture shows.

    Attributes:
        row: name of the score.
        scan: name of the scan.
        number: of the lesion, from 1.
        ml: its volume.
        hu: float32 (H, W), HU.
        heat: float32 (H, W), nats per pixel.
        labels: uint8 (H, W), 0 background, 1 suspicious, 2 strongly suspicious; all 0 without an ID reference.
        lesion: bool (H, W), all lesions of the slice.
        affine: (4, 4) of the slice as (H, W, 1), to RAS mm.
        scale: heat map values shown as the first and the last colour, as in a preview; None without an ID reference.
    """

    row: str
    scan: str
    number: int
    ml: float
    hu: NDArray[np.float32]
    heat: NDArray[np.float32]
    labels: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    affine: NDArray[np.float64]
    scale: tuple[float, float] | None


def panel_of(
    row: str,
    figures: TumourScan,
    standard: StandardSlices,
    heat: torch.Tensor,
    lesion: torch.Tensor,
    *,
    score: Scorer,
) -> Panel | None:
    """Cut the slice that shows most of the largest lesion; None if the scan has no lesion.

    Args:
        row: name of the score.
        figures: of the scan.
        standard: its slices.
        heat: float (Z, H, W), nats per pixel.
        lesion: bool (Z, H, W), the lesions that count.
        score: what made the heat map.
    """
    if not figures.lesions:
        return None
    number = 1 + int(np.argmax(figures.lesion_ml))
    parts, _ = lesion_parts(lesion)
    z = int(np.argmax((parts == number).sum(axis=(1, 2))))
    low, high = score.grid.hu_window
    hu = torch.where(standard.body[z, 0], (standard.images[z, 0] + 1) / 2 * (high - low) + low, AIR_HU)
    affine = standard.placement.affine.copy()
    labels, scale = np.zeros(hu.shape, np.uint8), None
    if score.reference is not None:
        labels = labelled_heat(heat, affine=affine, reference=score.reference)[:, :, z]
        scale = 0.5 * score.reference.suspicious, 1.25 * score.reference.strong
    affine[:3, 3] += z * affine[:3, 2]
    ml = figures.lesion_ml[number - 1]
    shown = hu.numpy(), heat[z].numpy().copy(), labels.copy(), lesion[z].numpy().copy()
    return Panel(row, figures.name, number, ml, *shown, affine, scale)


def draw_panel(path: Path, shown: Panel, *, scale: tuple[float, float], caption: str) -> None:
    """Draw the CT beside the CT with its heat map; a dashed line is around the lesions.

    Args:
        path: PNG file to write.
        shown: what to draw.
        scale: heat map values shown as transparent and as the last colour, nats per pixel; one for all scans.
        caption: below the pictures.
    """
    hu, heat, labels, lesion = (part[:, :, None] for part in (shown.hu, shown.heat, shown.labels, shown.lesion))
    scan = PreviewScan(hu, heat, labels, shown.affine, lesion)
    box, colours = scan.body_box(), Normalize(*scale, clip=True)
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor=_BACKGROUND)
    plain, overlaid = (panel(figure, (left, 0.2, 0.485, 0.79)) for left in (0.01, 0.505))
    draw_slice(overlaid, scan, "axial", 0, colours, box=box, rank="", size=0.75)
    view = scan.view("axial", 0, box=box)
    height, width = (n * mm for n, mm in zip(view.ct.shape, view.spacing, strict=True))
    low, high = WINDOW_LEVEL_HU - WINDOW_WIDTH_HU / 2, WINDOW_LEVEL_HU + WINDOW_WIDTH_HU / 2
    style: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high, "origin": "lower", "interpolation": "bicubic"}
    plain.imshow(view.ct, extent=(0, width, 0, height), aspect="auto", **style)
    plain.set(xlim=overlaid.get_xlim(), ylim=overlaid.get_ylim())
    figure.text(0.01, 0.14, caption, color=TEXT, fontsize=10, va="center")
    figure.text(
        0.01, 0.06, "Dashed: the lesion. Research use only, not for diagnosis.", color=MUTED, fontsize=8, va="center"
    )
    draw_scale(figure.add_axes((0.7, 0.075, 0.26, 0.025)), colours, fontsize=7)
    write_png(figure, path)
