"""Making an ID reference: scoring healthy scans under a bundle's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from klip_monai.errors import InputError
from klip_monai.io import read_volume
from klip_monai.io.dicom_source import person_of
from klip_monai.phantom import random_scan
from klip_monai.scoring import IDReference, contrast_px, local_contrast
from klip_monai.standard import PriorGrid, standard_slices
from klip_monai.training import SliceSet
from klip_monai.transforms import KLIPScore

REFERENCE_SEED = 50_000
"""First phantom of an ID reference; training, validation and evaluation use other seeds."""

SLICE_MM = (4.0, 6.0)
"""Range of the distance between the slices of a phantom scan."""

MIN_SCANS = 19
"""With scans of n people the smallest p-value is 1 / (1 + n)."""


Scan = tuple[torch.Tensor, torch.Tensor, int]
"""Standard slices of a healthy scan, float32 (Z, 1, H, W) in [-1, 1], which of their pixels are body, bool
(Z, 1, H, W), and the number of the person they are of."""


def standardized(volumes: Iterable[MetaTensor], grid: PriorGrid) -> Iterator[Scan]:
    """Volumes, float32 HU (1, X, Y, Z), in the slice format of a prior.

    Scans with the same PatientID are of one person, every other scan of a person of its own.
    """
    people: dict[str | int, int] = {}
    for place, volume in enumerate(volumes):
        slices = standard_slices(volume, grid)
        yield slices.images, slices.body, people.setdefault(person_of(volume) or place, len(people))


def phantom_scans(count: int, *, slices: int, seed: int = REFERENCE_SEED) -> Iterator[MetaTensor]:
    """Healthy phantom scans, slices 4 to 6 mm apart: float32 HU (1, X, Y, ``slices``)."""
    for patient in range(seed, seed + count):
        yield random_scan(patient, slices=slices, slice_mm=SLICE_MM).image


def healthy_scans(folder: str | Path) -> Iterator[MetaTensor]:
    """Every scan in ``folder``: each sub-folder (a DICOM series) or volume file is one.

    Raises:
        InputError: for a scan that cannot be read; a reference with holes would promise a wrong false-alarm rate.
    """
    for path in sorted(Path(folder).iterdir()):
        yield read_volume(path)


def set_scans(data: SliceSet, *, slices: int) -> Iterator[Scan]:
    """Runs of ``slices`` neighbouring slices of a slice set, each taken for a scan; shorter rests are left out."""
    first = 0
    for patient, group in enumerate(data.groups):
        for start in range(first, first + group.slices - slices + 1, slices):
            yield *data.stacked(range(start, start + slices)), patient
        first += group.slices


def calibrate(score: KLIPScore, scans: Iterable[Scan], *, settings: Mapping[str, Any], description: str) -> IDReference:
    """Score healthy scans and keep what p-values and thresholds need.

    Args:
        score: the transform, under the settings and without a reference of its own.
        scans: healthy scans, none of which trained the prior.
        settings: see :func:`klip_monai.bundle.scoring_settings`.
        description: what the scans are.

    Raises:
        InputError: for fewer than :data:`MIN_SCANS` scans, or scans of one person only.
    """
    density, contrast, slices, patients = [], [], [], []
    around_px = contrast_px(score.grid.pixel_mm)
    for images, body, patient in scans:
        body = score.counted(body)
        density.append(score.densities(images).movedim(1, -1)[body[:, 0]].numpy())
        contrast.append(local_contrast(images, sigma_px=around_px)[body].numpy())
        slices.append(len(images))
        patients.append(patient)
    if len(density) < MIN_SCANS:
        raise InputError(
            f"healthy scans: got {len(density)}, expected at least {MIN_SCANS}, so that p-values reach 0.05; "
            "add scans of other people"
        )
    return IDReference.from_scans(
        density,
        contrast,
        contrast_px=around_px,
        strength=score.inferer.calibration,
        settings=settings,
        slices=sorted(slices)[len(slices) // 2],
        description=description,
        patients=patients,
    )
