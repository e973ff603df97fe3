"""The density study: how the KL density of healthy slices depends on tissue, edges, depth and noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from klip_monai.errors import InputError
from klip_monai.evaluation.anomaly_study import healthy_slices
from klip_monai.evaluation.progress import study_progress
from klip_monai.evaluation.tables import save_report, table
from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser
from klip_monai.sampling import Step
from klip_monai.scoring import KLAccumulator, Window, contrast_px, local_contrast
from klip_monai.slice_generator import SliceGenerator
from klip_monai.standard import PriorGrid
from klip_monai.training import SliceSet

TISSUES_HU = {
    "gas": (-np.inf, -140.0),
    "fat": (-140.0, -20.0),
    "soft tissue": (-20.0, 90.0),
    "enhanced organs": (90.0, 180.0),
    "bone and contrast medium": (180.0, np.inf),
}
"""Low <= HU < high."""
CONTRASTS_HU = (0.0, 20.0, 50.0, 100.0, np.inf)
"""Edges of the classes of local contrast (standard deviation within 6 mm)."""
DEPTHS_MM = (0.0, 10.0, 30.0, 60.0, np.inf)
"""Edges of the classes of distance to the surface of the body."""
_BANDS = 4


@dataclass(frozen=True)
class Region:
    """Healthy pixels of one kind.

    Attributes:
        name: of the kind.
        share: of the in-body pixels.
        density: mean KL density, nats per pixel, by band of noise levels.
    """

    name: str
    share: float
    density: tuple[float, ...]


@dataclass(frozen=True)
class DensityStudy:
    """Result of :func:`run_density_study`.

    Attributes:
        slices: number of slices.
        bands: (high, low) noise levels of each band, descending.
        regions: by kind of division ("tissue", "local contrast", "depth"), its regions; "all" is the whole body.
    """

    slices: int
    bands: tuple[tuple[float, float], ...]
    regions: Mapping[str, tuple[Region, ...]]


def run_density_study(
    network: Denoiser, inferer: KLIPInferer, data: SliceSet, *, stride: int = 1, device: torch.device | str = "cpu"
) -> DensityStudy:
    """Sum the density of healthy slices by kind of pixel.

    Args:
        network: the prior, on ``device``.
        inferer: its window is divided into bands; without twins.
        data: healthy slices that the prior was not trained on.
        stride: every how manieth slice to take.
        device: where to score.

    Raises:
        InputError: if the inferer has twins, whose ratios are no density.
    """
    if inferer.twins.twins:
        raise InputError(f"inferer: got {inferer.twins.twins} twins, expected none; their ratios are no density")
    healthy, grid = healthy_slices(data, stride=stride), data.grid
    edges = np.geomspace(inferer.estimation.range.high, inferer.estimation.range.low, _BANDS + 1).tolist()
    divisions = _divisions(healthy.images, healthy.body, grid)
    sums = {name: np.zeros((_BANDS, len(names))) for name, (names, _) in divisions.items()}
    counts = {
        name: np.bincount(of[healthy.body[:, 0].numpy()], minlength=len(names))
        for name, (names, of) in divisions.items()
    }

    def banded(images: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
        bands = [
            KLAccumulator(Window(*band), lowpass_px=inferer.reading.lowpass_px, noise_px=inferer.reading.noise_px)
            for band in pairwise(edges)
        ]

        def tap(step: Step) -> None:
            for band in bands:
                band(step)

        inferer.density(images, network, generator=generator, tap=tap)
        draws, samples = inferer.estimation.reported, inferer.sampling.samples
        return torch.stack([_per_slice(band.density(draws=draws), samples) for band in bands], dim=1)

    with study_progress() as progress, inferer.batches(healthy.images.to(device), banded) as each:
        task = progress.add_task("slices", total=len(healthy))
        for members, densities in each:
            inside = healthy.body[members, 0].numpy()
            for number, values in enumerate(densities.cpu().double().numpy().swapaxes(0, 1)):
                for name, (names, of) in divisions.items():
                    within = of[members][inside]
                    sums[name][number] += np.bincount(within, weights=values[inside], minlength=len(names))
            progress.advance(task, len(members))
    total = int(healthy.body.sum())
    return DensityStudy(
        len(healthy),
        tuple(pairwise(edges)),
        {
            name: tuple(
                Region(label, float(count / total), tuple(map(float, nats / count)))
                for label, count, nats in zip(names, counts[name], sums[name].T, strict=True)
                if count
            )
            for name, (names, _) in divisions.items()
        },
    )


def _per_slice(density: torch.Tensor, samples: int) -> torch.Tensor:
    """Mean over the samples of each slice: (B * S, 1, H, W) to (B, H, W)."""
    return density[:, 0].unflatten(0, (-1, samples)).mean(dim=1)


def _divisions(
    images: torch.Tensor, body: torch.Tensor, grid: PriorGrid
) -> dict[str, tuple[tuple[str, ...], NDArray[np.intp]]]:
    """For each way to divide the body: names of the regions, and the region of each pixel, (B, H, W)."""
    low, high = grid.hu_window
    hu = (images[:, 0].numpy() + 1) / 2 * (high - low) + low
    contrast = local_contrast(images, sigma_px=contrast_px(grid.pixel_mm))[:, 0].numpy() / 2 * (high - low)
    depth = np.stack([ndimage.distance_transform_edt(inside) for inside in body[:, 0].numpy()]) * grid.pixel_mm
    return {
        "all": (("body",), np.zeros(hu.shape, dtype=np.intp)),
        "tissue": (tuple(TISSUES_HU), np.digitize(hu, [bounds[1] for bounds in list(TISSUES_HU.values())[:-1]])),
        "local contrast": (_named(CONTRASTS_HU, "HU"), np.digitize(contrast, CONTRASTS_HU[1:-1])),
        "depth": (_named(DEPTHS_MM, "mm"), np.digitize(depth, DEPTHS_MM[1:-1])),
    }


def _named(edges: tuple[float, ...], unit: str) -> tuple[str, ...]:
    return tuple(
        f"{low:g} {unit} and more" if np.isinf(high) else f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)
    )


def density_to_markdown(study: DensityStudy) -> str:
    """The study as a Markdown table: mean density of the whole body, and of each region relative to it."""
    (body,) = study.regions["all"]
    bands = [f"sigma {high:.2g} to {low:.2g}" for high, low in study.bands]
    whole = sum(body.density)
    rows = [["body, nats per pixel", "100 %", f"{whole:.3g}", *(f"{value:.2g}" for value in body.density)]]
    for kind, regions in study.regions.items():
        for region in regions if kind != "all" else ():
            relative = [value / mean for value, mean in zip(region.density, body.density, strict=True)]
            cells = [
                f"{100 * region.share:.0f} %",
                f"{sum(region.density) / whole:.2f}",
                *(f"{v:.2f}" for v in relative),
            ]
            rows.append([f"{kind}: {region.name}", *cells])
    return "\n".join(
        [
            "# What healthy tissue scores",
            "",
            f"Mean KL density of {study.slices} healthy slices that the prior was not trained on, before smoothing and "
            "calibration. First line: the whole body, nats per pixel. Below: multiples of it. Columns: the whole "
            "window, and bands of its noise levels.",
            "",
            *table(["pixels", "share", "window", *bands], rows),
            "",
        ]
    )


def save_density_study(study: DensityStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``density_study.md`` and ``density_study.json``, or neither; see :func:`save_report`."""
    save_report(output_dir, "density_study", density_to_markdown(study), asdict(study), provenance=provenance)
