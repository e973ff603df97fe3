"""Making the summary of a case."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from klip_monai import __version__
from klip_monai.io.straighten import leans
from klip_monai.report.preview_geometry import first_maximum
from klip_monai.report.summary import Source, Summary, Thresholds, Worst
from klip_monai.scan.case import Case
from klip_monai.scan.region import Region
from klip_monai.scoring import LABEL_NAMES, IDReference, what_p_and_q_mean

_LIBRARIES = ("torch", "monai", "numpy", "astra-toolbox", "pydicom", "highdicom", "SimpleITK", "nibabel")
_WORST_SLICES = 5


def summarize(case: Case) -> Summary:
    """What was found in a scan: scores in nats per pixel, volumes in ml, positions in RAS mm."""
    volume, reference = case.volume, case.reference
    affine = np.asarray(volume.affine, dtype=np.float64)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    values, labels = case.heatmap[0].cpu().numpy(), case.labels[0].cpu().numpy()
    region = None if case.region is None else Region.of(case.region)
    about_p = remarks(case.slices if region is None else region.slices, reference)
    per_slice = values.max(axis=(0, 1))
    return Summary(
        name=case.name,
        source=_source(case, affine),
        region=None if region is None else region.told(),
        unit=case.unit_in_full,
        scan_score=case.scan_score,
        p_value=reference.p_value(case.scan_score),
        worst=_worst(values, per_slice, affine),
        slice_scores=tuple(per_slice.tolist()),
        volume_ml={name: float((labels >= n).sum() * voxel_ml) for n, name in LABEL_NAMES.items() if n},
        candidate_count=case.candidate_count,
        candidates=case.candidates,
        p_and_q=what_p_and_q_mean(reference),
        thresholds=_thresholds(case),
        remarks=(
            *_reading_remarks(volume),
            *case.scoring_remarks,
            *about_p,
            *([] if region is None else region.remarks(is_long=bool(about_p))),
        ),
        provenance=case.provenance,
        versions=versions(),
        timings_s=dict(case.seconds),
    )


def _source(case: Case, affine: NDArray[np.float64]) -> Source:
    meta, spacing = case.volume.meta, np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = (int(n) for n in case.volume.shape[1:])
    return Source(
        format=meta["format"],
        shape=(x, y, z),
        spacing_mm=tuple(spacing.tolist()),
        affine_ras_mm=tuple(map(tuple, affine.tolist())),
        series_uid=(meta["series_uid"] or None) if case.keep_names else None,
    )


def _worst(values: NDArray[np.float32], per_slice: NDArray[np.float32], affine: NDArray[np.float64]) -> Worst:
    x, y, z = first_maximum(values)
    highest = np.argsort(per_slice)[::-1][:_WORST_SLICES]
    return Worst((x, y, z), tuple((affine @ [x, y, z, 1.0])[:3].tolist()), tuple(int(n) for n in highest))


def _thresholds(case: Case) -> Thresholds:
    reference = case.reference
    return Thresholds(
        suspicious=reference.suspicious,
        strong=reference.strong,
        key=reference.key,
        healthy_scans=len(reference.scan_scores),
        healthy_people=reference.people,
        healthy=reference.in_words,
        least_p=reference.least_p,
        slices_per_healthy_scan=reference.slices,
        healthy_score_range=(reference.scan_scores[0], reference.scan_scores[-1]),
        description=reference.description,
        calibration=_calibration(case),
    )


def _calibration(case: Case) -> dict[str, Any]:
    """What calibrated the heat map, JSON-able; nothing of a null that took nothing off, but the factor of sharp."""
    expected = case.reference.expected
    if case.is_calibrated:
        return expected.describe()
    return {"null": "none", "strength": 0.0, "sharp": expected.sharp}


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that a result depends on, by name."""
    return {"klip_monai": __version__} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def remarks(slices: int, reference: IDReference) -> list[str]:
    """What a reader of the p-value has to know, in sentences; none for a scan like those of the reference.

    Args:
        slices: standard slices that were scored, whatever the order of the scan's axes.
        reference: what they are compared with.
    """
    if slices <= 1.5 * reference.slices:
        return []
    return [
        f"p-value: got {slices} slices, the reference's healthy scans have {reference.slices} (median). The highest of "
        "more slices is higher by chance, so p is too small; calibrate with scans of this length."
    ]


def _reading_remarks(volume: MetaTensor) -> list[str]:
    """What was repaired in the scan, and how the files show a tilted one, in sentences."""
    repairs, found = volume.meta.get("repairs"), []
    if repairs:
        found.append(f"reading: {repairs}.")
    if leans(np.asarray(volume.affine, dtype=np.float64)):
        found.append(
            "gantry tilt: scored on the slices as they were acquired, and DICOM outputs lie on them. NIfTI, seg.nrrd "
            "and preview cannot be tilted: each slice is moved within its plane to a straight grid, labels by the "
            "nearest voxel, the heat map linearly."
        )
    return found
