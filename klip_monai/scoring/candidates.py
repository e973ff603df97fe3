"""Candidates: the connected places of a scan that are suspicious, ranked, each with what it would mean by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from klip_monai.scoring.labels import moved, parts_of
from klip_monai.scoring.reference import IDReference

_P_MEANS = "p: the chance that anything in a healthy new person's scan is as high."
_Q_MEANS = "q: the share of false findings to expect among this candidate and those ranked above it."
_Q_UNKNOWN = "q is not known: the ID reference does not hold the candidates of its healthy scans."


@dataclass(frozen=True)
class Candidate:
    """One connected suspicious place of a scan.

    Attributes:
        rank: by peak among the candidates of the scan, from 1.
        voxel: index (x, y, z) of the highest voxel.
        peak_ras_mm: where it is, RAS mm.
        centre_ras_mm: mean place of the candidate's voxels, RAS mm; may lie outside of one that is curved.
        volume_ml: volume in ml.
        extent_mm: sides in mm of the box around it along the voxel axes, each named by the patient axis that it runs
            along most closely: right-left, anterior-posterior, superior-inferior.
        peak: heat map at ``voxel``, nats per pixel.
        mean: mean of the heat map over its voxels, nats per pixel.
        label: highest label in it, 1 or 2.
        p: chance that anything in a healthy new person's scan is as high, see :meth:`IDReference.p_value`.
        q: expected share of false findings among this candidate and those above it, see :meth:`IDReference.q_values`;
            None where the reference does not tell.
    """

    JSON_PROPERTIES: ClassVar = {"slice": int}

    rank: int
    voxel: tuple[int, int, int]
    peak_ras_mm: tuple[float, float, float]
    centre_ras_mm: tuple[float, float, float]
    volume_ml: float
    extent_mm: tuple[float, float, float]
    peak: float
    mean: float
    label: int
    p: float
    q: float | None

    @property
    def slice(self) -> int:
        """Index of the peak's slice along the third voxel axis, from 0."""
        return self.voxel[2]

    def to_json(self) -> dict[str, Any]:
        """All of it by name, with ``slice``."""
        return asdict(self) | {"slice": self.slice}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Candidate:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError: if something is missing.
        """
        own = {field.name: told[field.name] for field in fields(cls)}
        places = ("voxel", "peak_ras_mm", "centre_ras_mm", "extent_mm")
        return cls(**own | {name: tuple(own[name]) for name in places})


def find_candidates(
    heatmap: NDArray[np.float32],
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    reference: IDReference,
    *,
    scan_score: float | None = None,
) -> tuple[Candidate, ...]:
    """Find the 26-connected components of the labels and rank them by peak, the highest first.

    Args:
        heatmap: float32 (X, Y, Z), calibrated KL density, nats per pixel.
        labels: uint8 (X, Y, Z), 0 background, 1 suspicious, 2 strongly suspicious.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        reference: of the settings that made the heat map.
        scan_score: maximum of the heat map before it was brought to this grid, nats per pixel; None if it was not.
            Interpolation lowers peaks, and the reference's were not interpolated. So p and q are those of each peak
            times what the maximum has lost: the candidate that holds the maximum has the scan's p, and none a smaller.

    Returns:
        One for each component; empty where nothing is labelled.
    """
    return ranked(heatmap, labels, affine, reference, scan_score=scan_score)[0]


def ranked(
    heatmap: NDArray[np.float32],
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    reference: IDReference,
    *,
    scan_score: float | None = None,
    most: int | None = None,
) -> tuple[tuple[Candidate, ...], int]:
    """:func:`find_candidates`, but no more than the first ``most`` of them, and the number of all.

    All take part in ranks, p and q; the rest of what a candidate tells is looked up for the first ones alone, as a map
    that is suspicious all over has hundreds of thousands.
    """
    parts, around = parts_of(labels)
    if not around:
        return (), 0
    within, given = parts > 0, heatmap[around]
    numbers, values = parts[within], given[within]
    sizes = np.bincount(numbers)[1:]
    highest_of = np.full(len(sizes), -np.inf, dtype=values.dtype)
    np.maximum.at(highest_of, numbers - 1, values)
    order = np.lexsort((-sizes, -highest_of))  # larger ones first where peaks are equal
    highest = float(heatmap.max()) or 1.0
    scale = highest if scan_score is None else scan_score
    peaks = [float(highest_of[part]) / highest * scale for part in order]
    q_values: Sequence[float | None] = reference.q_values(peaks) or [None] * len(peaks)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    patient_axes = nib.io_orientation(affine)[:, 0]
    boxes = ndimage.find_objects(parts)
    found = []
    for rank, (part, before, q) in enumerate(zip(order[:most], peaks, q_values, strict=False), start=1):
        box, inside = moved(boxes[part], around), parts[boxes[part]] == part + 1
        at = np.unravel_index(int(np.where(inside, heatmap[box], -np.inf).argmax()), inside.shape)
        x, y, z = (side.start + int(n) for side, n in zip(box, at, strict=True))
        found.append(
            Candidate(
                rank=rank,
                voxel=(x, y, z),
                peak_ras_mm=_ras(affine, (x, y, z)),
                centre_ras_mm=_ras(affine, np.argwhere(inside).mean(axis=0) + [side.start for side in box]),
                volume_ml=float(sizes[part] * voxel_ml),
                extent_mm=_three((inside.shape * spacing)[np.argsort(patient_axes)]),
                peak=float(heatmap[x, y, z]),
                mean=float(heatmap[box][inside].mean(dtype=np.float64)),
                label=int(labels[box][inside].max()),
                p=reference.p_value(before),
                q=q,
            )
        )
    return tuple(found), len(sizes)


def what_p_and_q_mean(reference: IDReference) -> str:
    """What p and q of candidates tell, or why there is no q, in a sentence each."""
    return f"{_P_MEANS} {_Q_MEANS if reference.peaks else _Q_UNKNOWN}"


def _ras(affine: NDArray[np.float64], index: ArrayLike) -> tuple[float, float, float]:
    return _three(affine[:3, :3] @ np.asarray(index) + affine[:3, 3])


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
