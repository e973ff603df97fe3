"""Making an ID reference: scoring healthy scans under a bundle's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from klip_monai.errors import InputError
from klip_monai.io import read_volume
from klip_monai.io.dicom.source import person_of
from klip_monai.phantom import random_scan
from klip_monai.scan import Scorer
from klip_monai.scoring import ContextNull, HealthyScan, IDReference, Places, contrast_px, local_contrast, with_sharp
from klip_monai.standard import PriorGrid, body_of, slice_distance, standard_slices
from klip_monai.training import SliceSet

REFERENCE_SEED = 50_000
"""First phantom of an ID reference; training, validation and evaluation use other seeds."""

SLICE_MM = (4.0, 6.0)
"""Range of the distance between the slices of a phantom scan."""

MIN_SCANS = 19
"""With scans of n people the smallest p-value is 1 / (1 + n)."""

UNKNOWN_MM = 3.0
"""Distance, mm, that slices of unknown distance are taken to have where the volume of a candidate is asked for."""


NULL_SLICES = 40
"""Slices of a person that a null is fitted to: more of one say little that other people do not."""


@dataclass(frozen=True)
class Scan:
    """A healthy scan in the slice format of a prior.

    Attributes:
        images: standard slices, float32 (Z, 1, H, W) in [-1, 1].
        body: which of their pixels are body, bool (Z, 1, H, W).
        person: number of the person that it is of.
        slice_mm: distance of its slices, mm; None if it is not known or they do not lie straight above each other.
    """

    images: torch.Tensor
    body: torch.Tensor
    person: int
    slice_mm: float | None = None


def standardized(volumes: Iterable[MetaTensor], grid: PriorGrid) -> Iterator[Scan]:
    """Volumes, float32 HU (1, X, Y, Z), in the slice format of a prior.

    Scans with the same PatientID are of one person, every other scan of a person of its own.
    """
    people: dict[str | int, int] = {}
    for place, volume in enumerate(volumes):
        slices = standard_slices(volume, grid)
        person = people.setdefault(person_of(volume) or place, len(people))
        yield Scan(slices.images, slices.body, person, slice_distance(slices.placement.affine))


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
        if not path.name.startswith(("._", ".DS_Store")):  # companions that macOS leaves
            yield read_volume(path)


def set_scans(data: SliceSet, *, slices: int | None = None) -> Iterator[Scan]:
    """Scans of a slice set.

    Args:
        data: the slices; each group is of another person. What was filled in where a source clipped HU counts, as it
            does in a scan that comes clipped.
        slices: cut groups into runs of so many neighbours, each taken for a scan, and leave shorter rests out. None
            takes each group as a whole.
    """
    first = 0
    for person, group in enumerate(data.groups):
        run = slices or group.slices
        for start in range(first, first + group.slices - run + 1, run):
            images, _ = data.stacked(range(start, start + run))
            yield Scan(images, body_of(images, data.grid), person, group.slice_mm)
        first += group.slices


def of_other_people(sources: Iterable[Iterable[Scan]]) -> Iterator[Scan]:
    """Scans of several sources, none of which have a person in common, numbered through."""
    people = 0
    for source in sources:
        first = people
        for scan in source:
            people = max(people, first + scan.person + 1)
            yield replace(scan, person=first + scan.person)


def middle_slices(scan: Scan, most: int) -> Scan:
    """The scan, or so many of its slices from the middle."""
    first = max(0, (len(scan.images) - most) // 2)
    some = slice(first, first + most)
    return replace(scan, images=scan.images[some], body=scan.body[some])


def fit_null(score: Scorer, scans: Iterable[Scan]) -> ContextNull:
    """Fit a null to the densities of healthy scans.

    Each is read in the plane and, where its slices' distance is known, in space too, so that the null knows what a mean
    along a scan leaves of the noise.

    Args:
        score: the transform, under the settings.
        scans: healthy scans of people that no ID reference is made of; they may have trained the prior.

    Raises:
        InputError: if there is too little in them.
    """
    inferer = score.inferer

    def scored() -> Iterator[HealthyScan]:
        for scan in scans:
            counted = score.counted(scan.body)
            apart = [None, scan.slice_mm] if inferer.reading.lowpass_z_mm and scan.slice_mm else [None]
            maps = inferer.maps(scan.images.to(score.device), score.network, slice_mm=apart)
            for slice_mm, density in zip(apart, maps, strict=True):
                left = inferer.noise_left(len(scan.images), slice_mm=slice_mm)
                yield HealthyScan(scan.images, scan.body, counted, density[:, :1].cpu(), left)

    return ContextNull.fit(scored(), pixel_mm=score.grid.pixel_mm, strength=inferer.reading.strength)


def calibrate(
    score: Scorer,
    scans: Iterable[Scan],
    *,
    settings: Mapping[str, Any],
    description: str,
    null: ContextNull | None = None,
) -> IDReference:
    """Score healthy scans and keep what p-values and thresholds need.

    Args:
        score: the transform, under the settings and without a reference of its own.
        scans: healthy scans, none of which trained the prior.
        settings: see :func:`klip_monai.bundle.scoring_settings`.
        description: what the scans are.
        null: what calibrates maps, if that is a null fitted to other people; None calibrates them by local contrast.

    Raises:
        InputError: for fewer than :data:`MIN_SCANS` scans, or scans of one person only.
    """
    density, contrast, calibrated = [], [], []
    slices, people, places = [], [], []
    around_px = contrast_px(score.grid.pixel_mm)
    for scan in scans:
        body = score.counted(scan.body)
        maps = score.densities(scan.images, slice_mm=scan.slice_mm)
        density.append(maps.movedim(1, -1)[body[:, 0]].numpy())
        if null is None:
            contrast.append(local_contrast(scan.images, sigma_px=around_px)[body].numpy())
        else:
            left = score.inferer.noise_left(len(maps), slice_mm=scan.slice_mm)
            calibrated.append(null.heatmap(maps[:, :1], scan.images, body=scan.body, noise_left=left)[body].numpy())
        slices.append(len(maps))
        people.append(scan.person)
        pixel_ml = score.grid.pixel_mm**2 * (scan.slice_mm or UNKNOWN_MM) / 1000
        places.append(Places(body[:, 0].numpy(), pixel_ml))
    if len(density) < MIN_SCANS:
        raise InputError(
            f"healthy scans: got {len(density)}, expected at least {MIN_SCANS}, so that p-values reach 0.05; "
            "add scans of other people"
        )
    shared: dict[str, Any] = {
        "settings": settings,
        "slices": sorted(slices)[len(slices) // 2],
        "description": description,
        "patients": people,
        "places": places,
    }
    if null is not None:
        if score.inferer.reading.sharp:
            null, calibrated = with_sharp(null, calibrated, [d[:, 1] for d in density], people)
        return IDReference.from_calibrated(calibrated, expected=null, **shared)
    return IDReference.from_scans(
        density,
        contrast,
        contrast_px=around_px,
        strength=score.inferer.reading.strength,
        **shared,
    )
