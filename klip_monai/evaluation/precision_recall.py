"""Average precision and best Dice: one precision-recall curve over slices, or over the in-body pixels of all slices.

Unlike an ROC they say what share of the alarms is right, which is what rare lesions make hard.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import Estimate, Values, bootstrap, by_lesion, check_shapes

Counts = NDArray[np.integer[Any]]
THRESHOLDS = 2000
"""Most thresholds of a curve over pixels: quantiles of the lesions' pixels, so that a figure is good to 1/2000."""


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean precision over the anomalous entries, the area under the precision-recall curve by steps.

    Args:
        scores: (N,), higher means more anomalous.
        labels: (N,), True where anomalous.

    Raises:
        InputError: if none is anomalous.
    """
    return _average_precision(*_curve(scores, labels))


def best_dice(scores: ArrayLike, labels: ArrayLike) -> float:
    """Highest Dice that any threshold reaches; arguments and errors as for :func:`average_precision`."""
    return _best_dice(*_curve(scores, labels))


def slice_average_precision(
    healthy: ArrayLike, lesion: ArrayLike, *, patients: Sequence[Sequence[Hashable]] | None = None, seed: int = 0
) -> Estimate:
    """Average precision of slice scores (N,) and (M,); chance is M / (N + M).

    Arguments and errors as for :func:`klip_monai.evaluation.metrics.slice_level_auroc`.
    """

    def precision(negative: Values, positive: Values) -> float:
        return average_precision(np.concatenate([negative, positive]), np.arange(-len(negative), len(positive)) >= 0)

    return bootstrap(precision, healthy, lesion, patients=patients, seed=seed)


def pixel_average_precision(
    maps: torch.Tensor,
    masks: torch.Tensor,
    body: torch.Tensor,
    *,
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """Average precision over the in-body pixels of all slices together; chance is the share of lesion pixels.

    Args:
        maps: float (B, 1, H, W), higher means more anomalous.
        masks: bool (B, 1, H, W), True in the lesion; slices without one count with their false positives.
        body: bool (B, 1, H, W); pixels outside do not count.
        patients: whose each slice is; None means that every slice is another patient's.
        seed: of the bootstrap, which resamples patients with and without lesions on their own.

    Raises:
        InputError: if shapes differ or there is no lesion in the body.
    """
    return _pixel_level(_average_precision, maps, masks, body, patients=patients, seed=seed)


def pixel_best_dice(
    maps: torch.Tensor,
    masks: torch.Tensor,
    body: torch.Tensor,
    *,
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """Highest Dice over thresholds, one threshold and one Dice for all slices together.

    Arguments and errors as for :func:`pixel_average_precision`; the bootstrap chooses the threshold anew.
    """
    return _pixel_level(_best_dice, maps, masks, body, patients=patients, seed=seed)


def _pixel_level(
    statistic: Callable[[Counts, Counts], float],
    maps: torch.Tensor,
    masks: torch.Tensor,
    body: torch.Tensor,
    *,
    patients: Sequence[Hashable] | None,
    seed: int,
) -> Estimate:
    """A statistic of the counts at each threshold, summed over patients."""
    check_shapes(maps, masks, body)
    names = list(range(len(maps))) if patients is None else list(patients)
    members = [np.flatnonzero([name == patient for name in names]) for patient in dict.fromkeys(names)]
    lesion = maps[masks & body].double().numpy()
    if not len(lesion):
        raise InputError("masks: got no lesion pixel in the body, expected some")
    thresholds = np.unique(np.quantile(lesion, np.linspace(0, 1, min(THRESHOLDS, len(lesion))), method="nearest"))
    scores, labels = ([part[index][body[index]].numpy() for index in members] for part in (maps, masks))
    counts = np.array([_counts(s, y, thresholds) for s, y in zip(scores, labels, strict=True)])  # (patients, 2, K)
    return by_lesion(lambda chosen: statistic(*counts[chosen].sum(axis=0)), [y.any() for y in labels], seed=seed)


def _curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Counts, Counts]:
    """:func:`_counts` at every threshold that matters: the scores of the anomalous entries."""
    values, anomalous = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if not anomalous.any():
        raise InputError(f"labels: got 0 anomalous of {anomalous.size}, expected some; leave such a scan out")
    return _counts(values, anomalous, np.unique(values[anomalous]))


def _counts(scores: NDArray[Any], labels: NDArray[np.bool_], thresholds: Values) -> tuple[Counts, Counts]:
    """Anomalous and other entries at or above each ascending threshold: (N,) and (N,) to (K,) and (K,)."""
    parts = [np.sort(scores[chosen].astype(np.float64)) for chosen in (labels, ~labels)]
    true, false = (len(part) - np.searchsorted(part, thresholds, side="left") for part in parts)
    return true, false


def _average_precision(true: Counts, false: Counts) -> float:
    """From the counts at ascending thresholds, of which the first finds every anomalous entry."""
    gained = true - np.append(true[1:], 0)
    return float((gained * true / np.maximum(true + false, 1)).sum() / true[0])


def _best_dice(true: Counts, false: Counts) -> float:
    """From the counts at ascending thresholds, of which the first finds every anomalous entry."""
    return float((2 * true / (true + false + true[0])).max())
