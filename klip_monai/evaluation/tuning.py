"""Choosing window, low-pass and smoothing on healthy slices and synthetic anomalies: all from one sampling pass."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klip_monai.errors import InputError
from klip_monai.evaluation.comparison import study_slices_of
from klip_monai.evaluation.metrics import auroc, slice_scores
from klip_monai.evaluation.progress import study_progress
from klip_monai.evaluation.reading import Reading, Readings
from klip_monai.evaluation.scored import score_slices
from klip_monai.evaluation.slice_study import StudySlices, expected_density
from klip_monai.evaluation.study_file import Entry, Study
from klip_monai.evaluation.tables import table
from klip_monai.inferer import KLIPInferer
from klip_monai.io.strict_json import write_json
from klip_monai.io.write.atomic import publish
from klip_monai.prior import log_sigmas
from klip_monai.scoring import Window, contrast_px, local_contrast, smooth
from klip_monai.standard import PriorGrid, beneath_skin

_DEFAULTS: Mapping[str, Any] = {
    "edges": 9,
    "lowpass_px": [0.0, 1.0, 2.0],
    "smoothing_px": [1.5, 3.0],
    "calibration": [0.0, 0.5, 1.0],
    "sharp": [False],
    "skin_px": [0.0],
}
_SHOWN = 25


@dataclass(frozen=True)
class Setting:
    """One point of the search, and what it reaches.

    Attributes:
        row: the study's row that was sampled.
        window: (high, low) noise levels.
        lowpass_px, smoothing_px: in pixels.
        calibration: how strongly, by what healthy tissue of the same local contrast scores.
        sharp: whether the density of all spatial frequencies competes with the calibrated one.
        skin_px: rim of the body that is left out.
        image_level: by kind of anomaly, AUROC over in-body pixels, averaged over slices.
        slice_level: by kind, AUROC of the in-body maximum.
        mean: of all these.
    """

    row: str
    window: tuple[float, float]
    lowpass_px: float
    smoothing_px: float
    calibration: float
    sharp: bool
    skin_px: float
    image_level: Mapping[str, float]
    slice_level: Mapping[str, float]
    mean: float


def tune(study: Study, *, keep: str | Path | None = None) -> list[Setting]:
    """Search the settings that the study's ``grid`` spans, for each of its rows that is KLIP.

    ``edges`` is a list of descending noise levels, or how many, spread over the row's window; every pair of them is a
    window. ``lowpass_px``, ``smoothing_px``, ``calibration``, ``sharp`` and ``skin_px`` are lists. No anomalous data
    but the synthetic ones takes part; slices chosen on must not be those reported on later.

    Args:
        study: from :func:`klip_monai.evaluation.study_file.read_study`.
        keep: folder to keep densities in.

    Returns:
        All settings, the best first.

    Raises:
        InputError: for an unknown key of ``grid``, or without a row that is KLIP or without anomalies.
    """
    unknown = sorted(set(study.search) - set(_DEFAULTS))
    if unknown:
        raise InputError(f"grid: got {', '.join(unknown)}, expected any of {', '.join(_DEFAULTS)}")
    rows = {name: entry for name, entry in study.rows.items() if isinstance(entry.method, KLIPInferer | Readings)}
    if not rows or not study.makers:
        raise InputError(f"study: got {len(rows)} rows of the method klip and {len(study.makers)} anomalies, expected "
                         "at least one of each")  # fmt: skip
    search = {**_DEFAULTS, **study.search}
    settings: list[Setting] = []
    with study_progress() as progress:
        healthy, calibration, anomalous = study_slices_of(study, progress)
        groups = [healthy, *anomalous.values(), calibration]
        images = torch.cat([group.images for group in groups])
        contrast = local_contrast(images, sigma_px=contrast_px(study.grid.pixel_mm))
        for name, entry in rows.items():
            reading = _bins(entry, search)
            task = progress.add_task(name, total=len(images))
            scored = score_slices(
                reading,
                images.to(study.device),
                entry.network,
                smoothing_px=0.0,
                keep=keep,
                report=lambda done, task=task: progress.update(task, completed=done),  # type: ignore[misc]
            )
            densities = {key: value.maps for key, value in scored.items() if value.maps is not None}
            points = list(_points(reading, search))
            for point in progress.track(points, description=f"{name}: settings"):
                settings.append(_judge(name, point, densities, groups, list(anomalous), contrast, study.grid))
    return sorted(settings, key=lambda setting: -setting.mean)


def _bins(entry: Entry, search: Mapping[str, Any]) -> Readings:
    """A reading for each low-pass and each bin between neighbouring edges, named by its place."""
    inferer = entry.method.inferer if isinstance(entry.method, Readings) else entry.method
    assert isinstance(inferer, KLIPInferer)
    edges = search["edges"]
    if isinstance(edges, int):
        window = inferer.estimation.range
        edges = log_sigmas(edges, sigma_max=window.high, sigma_min=window.low).double().tolist()
    edges = list(map(float, edges))
    if inferer.estimation.estimator == "renoised":  # evaluates the levels that its window says
        inferer = inferer.changed(window=(edges[0], edges[-1]), twins=0)
    readings = {
        f"{lowpass:g}/{number}": Reading((high, low), lowpass)
        for lowpass in {*map(float, search["lowpass_px"]), *[0.0] * any(search["sharp"])}
        for number, (high, low) in enumerate(itertools.pairwise(edges))
    }
    return Readings(inferer, readings)


def _points(bins: Readings, search: Mapping[str, Any]) -> list[tuple[slice, Reading]]:
    """Every setting, with the bins that its density is the sum of."""
    edges = sorted({level for bin in bins.readings.values() for level in bin.window or ()}, reverse=True)
    points: list[tuple[slice, Reading]] = []
    others = [search[name] for name in _DEFAULTS if name != "edges"]
    for first, last in itertools.combinations(range(len(edges)), 2):
        for lowpass, smoothing, calibration, sharp, skin in itertools.product(*others):
            window, widths = (edges[first], edges[last]), (float(lowpass), float(smoothing))
            reading = Reading(window, *widths, calibration=float(calibration), sharp=bool(sharp), skin_px=float(skin))
            points.append((slice(first, last), reading))
    return points


def _judge(
    row: str,
    point: tuple[slice, Reading],
    densities: Mapping[str, torch.Tensor],
    groups: Sequence[StudySlices],
    kinds: Sequence[str],
    contrast: torch.Tensor,
    grid: PriorGrid,
) -> Setting:
    bins, reading = point
    widths = [reading.lowpass_px, *[0.0] * reading.sharp]
    density = torch.cat([_sum_of(densities, f"{width:g}/", bins) for width in widths], dim=1)
    maps = smooth(density, sigma_px=reading.smoothing_px)
    sizes = [len(group) for group in groups]
    counted = [beneath_skin(group.body, skin_px=reading.skin_px) for group in groups]
    if reading.calibration or reading.sharp:
        images = groups[-1].images
        expected = expected_density(maps[-sizes[-1] :], images, counted[-1], grid, strength=reading.calibration)
        maps = expected.heatmap_at(maps, contrast)
    maps = maps * torch.cat(counted)
    well, *ill, _ = maps.split(sizes)
    healthy = slice_scores(well, groups[0].body)
    image_level, slice_level = {}, {}
    for kind, part, group in zip(kinds, ill, groups[1:-1], strict=True):
        each = [auroc(m[b].numpy(), y[b].numpy()) for m, y, b in zip(part, group.masks, group.body, strict=True)]
        image_level[kind] = float(np.mean(each))
        scores = slice_scores(part, group.body)
        slice_level[kind] = auroc(np.concatenate([healthy, scores]), np.arange(-len(healthy), len(scores)) >= 0)
    mean = float(np.mean([*image_level.values(), *slice_level.values()]))
    window = Window(*reading.window) if reading.window else Window()
    how = (reading.lowpass_px, reading.smoothing_px, reading.calibration, reading.sharp, reading.skin_px)
    return Setting(row, (window.high, window.low), *how, image_level, slice_level, mean)


def _sum_of(densities: Mapping[str, torch.Tensor], prefix: str, bins: slice) -> torch.Tensor:
    """Sum of some of the bins of one low-pass."""
    return torch.stack([density for name, density in densities.items() if name.startswith(prefix)][bins]).sum(dim=0)


def save_tuning(
    settings: Sequence[Setting], output_dir: str | Path, *, title: str, provenance: Mapping[str, Any]
) -> None:
    """Write ``tuning.md``, ``tuning.json``, and the best setting as ``tuned.json``, a bundle's configuration overlay.

    Args:
        settings: the best first.
        output_dir: folder; made if missing.
        title: of the study.
        provenance: what was searched with what, JSON-able.

    Raises:
        OutputError: if the folder cannot be written to.
    """
    best = settings[0]
    overlay = {
        "inferer#estimation#window": list(best.window),
        "inferer#reading#lowpass_px": best.lowpass_px,
        "inferer#reading#smoothing_px": best.smoothing_px,
        "inferer#reading#calibration": best.calibration,
        "inferer#reading#sharp": best.sharp,
        "inferer#reading#skin_px": best.skin_px,
    }
    with publish(output_dir, overwrite=True) as staging:
        (staging / "tuning.md").write_text(tuning_to_markdown(settings, title=title), encoding="utf-8")
        (staging / "tuned.json").write_text(json.dumps(overlay, indent=4) + "\n", encoding="utf-8")
        content = {"settings": [asdict(setting) for setting in settings], "provenance": dict(provenance)}
        write_json(staging / "tuning.json", content)


def tuning_to_markdown(settings: Sequence[Setting], *, title: str) -> str:
    """The best settings as a table, image-level / slice-level AUROC for each kind of anomaly."""
    kinds = list(settings[0].image_level)
    head = ["row", "window", "low-pass, px", "smoothing, px", "calibration", "sharp", "skin, px", *kinds, "mean"]
    body = [
        [
            s.row,
            f"{s.window[0]:.3g} to {s.window[1]:.3g}",
            f"{s.lowpass_px:g}",
            f"{s.smoothing_px:g}",
            f"{s.calibration:g}",
            "yes" if s.sharp else "no",
            f"{s.skin_px:g}",
            *(f"{s.image_level[kind]:.3f} / {s.slice_level[kind]:.3f}" for kind in kinds),
            f"{s.mean:.3f}",
        ]
        for s in settings[:_SHOWN]
    ]
    return "\n".join(
        [
            f"# {title}: settings",
            "",
            f"The best {len(body)} of {len(settings)} settings by the mean of image-level and slice-level AUROC, on "
            "healthy slices and the same slices with synthetic anomalies. They were chosen here; report them on other "
            "slices. A bundle takes the best one from `tuned.json`, and needs a new ID reference then.",
            "",
            *table(head, body),
            "",
        ]
    )
