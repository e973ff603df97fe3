"""The phantom study: liver lesions against matched healthy slices, under several settings of the inferer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.method import Entry, Method
from klip_monai.evaluation.progress import study_progress
from klip_monai.evaluation.reading import Readings
from klip_monai.evaluation.slice_study import Compared, SliceStudy, StudySlices, run_slice_study
from klip_monai.phantom import random_scan
from klip_monai.prior import Denoiser
from klip_monai.scan.calibration import SLICE_MM
from klip_monai.standard import PriorGrid, resample_mask, standard_slices

HEALTHY_SEED = 200_000
"""First healthy phantom of the study; training, validation and ID references use other seeds."""
CALIBRATION_SEED = 250_000
"""First healthy phantom that the expected density of each row is taken from."""
LESION_SEED = 300_000
"""First phantom with a lesion."""
RADIUS_MM = (4.0, 20.0)
CONTRAST_HU = (20.0, 80.0)


@dataclass(frozen=True)
class PhantomStudy:
    """Result of :func:`run_phantom_study`.

    Attributes:
        study: rows, and strata of the first row.
        slice_mm: range of the distance between slices.
        healthy_seeds: patients of the healthy slices.
        lesion_seeds: patients of the lesion slices.
    """

    study: SliceStudy
    slice_mm: tuple[float, float]
    healthy_seeds: tuple[int, ...]
    lesion_seeds: tuple[int, ...]


def study_slices(
    count: int,
    grid: PriorGrid,
    *,
    seed: int,
    lesion: bool,
    slice_mm: tuple[float, float] = SLICE_MM,
    progress: Progress | None = None,
) -> StudySlices:
    """Make phantom slices, one per patient.

    Every patient is given a liver lesion and the slice in which it is largest is taken; for healthy slices the same
    slice is then taken from a scan of the patient without the lesion. So healthy and lesion slices have one
    distribution of positions, and only the lesion tells them apart. Patients whose lesion covers no pixel of any slice
    are passed over, in both groups.

    Args:
        count: number of slices.
        grid: slice format.
        seed: first patient.
        lesion: keep the lesion.
        slice_mm: range of the distance between the slices of a scan; by default that of the ID reference's phantoms, so
            that a slice runs through the thick of a lesion.
        progress: shows how many are done.
    """
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]] = []
    task = progress.add_task("lesion phantoms" if lesion else "healthy phantoms", total=count) if progress else None
    for patient in itertools.count(seed):
        if len(found) == count:
            break
        ill = random_scan(patient, slice_mm=slice_mm, lesion=True, radius_mm=RADIUS_MM, contrast_hu=CONTRAST_HU)
        standard = standard_slices(ill.image, grid)
        masks = resample_mask(ill.lesions, standard.placement) & standard.body
        areas = masks.sum(dim=(1, 2, 3))
        z = int(areas.argmax())
        if areas[z] == 0:
            continue
        if not lesion:
            standard = standard_slices(random_scan(patient, slice_mm=slice_mm).image, grid)
            masks = torch.zeros_like(masks)
        found.append((standard.images[z], masks[z], standard.body[z], patient))
        if progress is not None and task is not None:
            progress.update(task, completed=len(found))
    images, kept_masks, body, seeds = zip(*found, strict=True)
    return StudySlices(torch.stack(images), torch.stack(kept_masks), torch.stack(body), tuple(seeds))


def run_phantom_study(
    network: Denoiser,
    rows: Mapping[str, Method | Readings],
    *,
    grid: PriorGrid,
    healthy: int = 100,
    lesions: int = 100,
    calibration: int = 100,
    slice_mm: tuple[float, float] = SLICE_MM,
    block_px: int = 8,
    device: torch.device | str = "cpu",
) -> PhantomStudy:
    """Score healthy and lesion phantoms under each of several settings, each calibrated by healthy phantoms.

    Args:
        network: the prior, on ``device``.
        rows: methods by name; the first one's figures are also given by lesion size.
        grid: the prior's slice format.
        healthy: number of healthy slices, one per patient.
        lesions: number of lesion slices, one per patient.
        calibration: number of further healthy slices, one per patient, that each row's expected density is taken from.
        slice_mm: range of the distance between the slices of the scans that the slices are taken from.
        block_px: side of the blocks, in pixels.
        device: where to score.

    Raises:
        InputError: without rows or with fewer than two slices of a kind.
    """
    if not rows or min(healthy, lesions, calibration) < 2:
        raise InputError(
            f"phantom study: got {len(rows)} rows, {healthy} healthy, {lesions} lesion and {calibration} calibration "
            "slices; expected at least one row and two slices of each kind"
        )
    with study_progress() as progress:
        well, ill, null = (
            study_slices(count, grid, seed=seed, lesion=seed == LESION_SEED, slice_mm=slice_mm, progress=progress)
            for count, seed in ((healthy, HEALTHY_SEED), (lesions, LESION_SEED), (calibration, CALIBRATION_SEED))
        )
        entries = {name: Entry(method, network) for name, method in rows.items()}
        slices = Compared(well, {"lesions": ill}, null, grid)
        studies = run_slice_study(entries, slices, progress=progress, block_px=block_px, device=device)
    return PhantomStudy(studies["lesions"], slice_mm, _seeds(well), _seeds(ill))


def _seeds(slices: StudySlices) -> tuple[int, ...]:
    return tuple(int(str(patient)) for patient in slices.patients)
