"""Peaks of heat maps: how many lesions hold one, and how many others there are (free-response ROC)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import Estimate, by_lesion

PEAK_MM = 10.0
"""Peaks of a heat map closer than this are one."""

Peaks = Sequence[tuple[float, int]]
"""Value of each peak and the number of the lesion that it lies in, from 1, or 0."""


def find_peaks(
    maps: NDArray[np.floating], masks: NDArray[np.integer], *, spacing_mm: tuple[float, float, float]
) -> tuple[tuple[float, int], ...]:
    """Local maxima of a heat map, highest first, with the lesion that each lies in.

    Args:
        maps: heat map, float (Z, H, W); only positive values can be peaks. A single slice is (1, H, W).
        masks: integer (Z, H, W), the number of the lesion at each voxel, or 0.
        spacing_mm: of the axes.
    """
    reach = [round(PEAK_MM / mm) for mm in spacing_mm]
    highest = ndimage.maximum_filter(maps, size=[2 * r + 1 for r in reach])
    at = np.argwhere((maps == highest) & (maps > 0))
    found = [(float(maps[tuple(index)]), int(masks[tuple(index)])) for index in at]
    return tuple(sorted(found, reverse=True))


def level_at(peaks: Sequence[Peaks], *, false_positives: float) -> float:
    """The level above which so many false peaks a scan or slice lie, or fewer; minus infinity if there are no more.

    Args:
        peaks: of each of N scans or slices.
        false_positives: peaks outside of lesions, mean over the N.
    """
    wrong = sorted((value for each in peaks for value, lesion in each if not lesion), reverse=True)
    allowed = int(false_positives * len(peaks) + 1e-9)  # 0.29 x 100 is 29, rounding aside
    return wrong[allowed] if allowed < len(wrong) else -np.inf


def sensitivity_at(
    peaks: Sequence[Peaks],
    lesions: Sequence[int],
    *,
    false_positives: float,
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """Share of all lesions with a peak in them above the threshold that allows so many false peaks a scan or slice.

    Args:
        peaks: of each of N scans or slices.
        lesions: number of lesions in each.
        false_positives: peaks outside of lesions, mean over the N.
        patients: whose each of the N is; None means that every one is another patient's.
        seed: of the bootstrap, which draws the threshold anew.

    Raises:
        InputError: if lengths differ or there is no lesion.
    """
    if len(peaks) != len(lesions):
        raise InputError(f"lesions: got {len(lesions)} numbers, expected {len(peaks)}, one for each scan or slice")

    def found(chosen: NDArray[np.integer]) -> float:
        threshold = level_at([peaks[i] for i in chosen], false_positives=false_positives)
        hit = sum(len({lesion for value, lesion in peaks[i] if lesion and value > threshold}) for i in chosen)
        return hit / sum(lesions[i] for i in chosen)

    return by_lesion(found, np.asarray(lesions) > 0, patients=patients, seed=seed)
