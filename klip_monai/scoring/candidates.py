"""Candidates: the connected places of a scan that are suspicious, ranked, each with what it would mean by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from klip_monai.scoring.labels import islands
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
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    patient_axes = nib.io_orientation(affine)[:, 0]
    parts = []
    for _, box, volume_ml, inside in islands(labels, voxel_ml=voxel_ml):
        at = np.unravel_index(int(np.where(inside, heatmap[box], -np.inf).argmax()), inside.shape)
        x, y, z = (part.start + int(n) for part, n in zip(box, at, strict=True))
        parts.append((float(heatmap[x, y, z]), (x, y, z), box, volume_ml, inside))
    if not parts:
        return ()
    parts.sort(key=lambda part: -part[0])
    highest = float(heatmap.max()) or 1.0
    peaks = [peak / highest * (highest if scan_score is None else scan_score) for peak, *_ in parts]
    q_values: Sequence[float | None] = reference.q_values(peaks) or [None] * len(parts)
    return tuple(
        Candidate(
            rank=rank,
            voxel=voxel,
            peak_ras_mm=_ras(affine, voxel),
            centre_ras_mm=_ras(affine, np.argwhere(inside).mean(axis=0) + [part.start for part in box]),
            volume_ml=volume_ml,
            extent_mm=_three((inside.shape * spacing)[np.argsort(patient_axes)]),
            peak=peak,
            mean=float(heatmap[box][inside].mean(dtype=np.float64)),
            label=int(labels[box][inside].max()),
            p=reference.p_value(before),
            q=q,
        )
        for rank, ((peak, voxel, box, volume_ml, inside), before, q) in enumerate(
            zip(parts, peaks, q_values, strict=True), start=1
        )
    )


def what_p_and_q_mean(reference: IDReference) -> str:
    """What p and q of candidates tell, or why there is no q, in a sentence each."""
    return f"{_P_MEANS} {_Q_MEANS if reference.peaks else _Q_UNKNOWN}"


def _ras(affine: NDArray[np.float64], index: ArrayLike) -> tuple[float, float, float]:
    return _three(affine[:3, :3] @ np.asarray(index) + affine[:3, 3])


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
