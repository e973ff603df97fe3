"""Metrics of detection and localisation, with 95 % confidence intervals over patients.

Image-level: one ROC over the pixels (or blocks) of each lesion slice, averaged over slices. Slice-level (the paper's
dataset-level): one ROC over healthy and lesion slices, each scored by its highest in-body value. Both as in Kheirandish
et al., KLIP, CVPR 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch.nn.functional import max_pool2d

from klip_monai.errors import InputError
from klip_monai.scoring import block_scores

Values = NDArray[np.float64]
RESAMPLES = 1000
PROTOCOLS = ("in-body", "legacy")


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % confidence interval; ``low`` and ``high`` are None where one patient allows none."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]")


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve.

    Args:
        scores: (N,), higher means more anomalous.
        labels: (N,), True where anomalous.

    Raises:
        InputError: if all labels are the same; there is no ROC then.
    """
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        raise InputError(
            f"labels: got {labels.sum()} anomalous of {labels.size}, expected some of both; leave such a slice out"
        )
    return float(roc_auc_score(labels, np.asarray(scores)))


def bootstrap(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    patients: Sequence[Sequence[Hashable]] | None = None,
    seed: int = 0,
) -> Estimate:
    """A statistic with its 95 % percentile bootstrap interval over patients.

    Args:
        statistic: function of as many arrays as there are ``samples``.
        *samples: one-dimensional; the patients of each group are resampled on their own, with replacement.
        patients: for each sample, whose each entry is; None means that every entry is another patient's.
        seed: of the resampling.

    Raises:
        InputError: if a sample is empty.
    """
    values = [np.asarray(sample, dtype=np.float64) for sample in samples]
    sizes = [len(sample) for sample in values]
    if min(sizes) == 0:
        raise InputError(f"samples: got {sizes} entries, expected at least one in each group")
    value = float(statistic(*values))
    names = [range(size) for size in sizes] if patients is None else patients
    by_patient = [_by_patient(sample, name) for sample, name in zip(values, names, strict=True)]
    if min(map(len, by_patient)) == 1:
        return Estimate(value, None, None)

    def of_patients(*chosen: NDArray[np.integer[Any]]) -> float:
        return statistic(*(np.concatenate([g[i] for i in c]) for g, c in zip(by_patient, chosen, strict=True)))

    result = stats.bootstrap(
        [np.arange(len(groups)) for groups in by_patient],
        of_patients,
        n_resamples=RESAMPLES,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Estimate(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def _by_patient(values: Values, names: Sequence[Hashable]) -> list[Values]:
    """The entries of each patient."""
    at: dict[Hashable, list[int]] = {}
    for index, name in enumerate(names):
        at.setdefault(name, []).append(index)
    return [values[index] for index in at.values()]


def image_level_auroc(
    maps: torch.Tensor,
    masks: torch.Tensor,
    body: torch.Tensor,
    *,
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """ROC over the in-body pixels of each slice, averaged over slices.

    Args:
        maps: float (B, 1, H, W), higher means more anomalous.
        masks: bool (B, 1, H, W), True in the lesion; every slice has one.
        body: bool (B, 1, H, W); pixels outside do not count.
        patients: whose each slice is; None means that every slice is another patient's.
        seed: of the bootstrap.

    Raises:
        InputError: if shapes differ, or a slice has no lesion, or nothing else, in the body.
    """
    check_shapes(maps, masks, body)
    per_slice = [auroc(m[b].numpy(), y[b].numpy()) for m, y, b in zip(maps, masks, body, strict=True)]
    return bootstrap(_mean, per_slice, patients=None if patients is None else [patients], seed=seed)


def block_level_auroc(
    maps: torch.Tensor,
    masks: torch.Tensor,
    body: torch.Tensor,
    *,
    size: int,
    protocol: str = "in-body",
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """ROC over the blocks of each slice (the paper's image-level figure), averaged over slices.

    A block is anomalous if it holds any lesion pixel and scores the sum of its in-body density.

    Args:
        maps: KL density, float (B, 1, H, W), nats per pixel, not smoothed.
        masks: bool (B, 1, H, W), True in the lesion.
        body: bool (B, 1, H, W).
        size: side of a block in pixels.
        protocol: "in-body" counts blocks with any in-body pixel. "legacy" counts all blocks, those outside the body as
            negatives with score zero, which inflates the figure.
        patients: as in :func:`image_level_auroc`.
        seed: of the bootstrap.

    Raises:
        InputError: for an unknown protocol, and as :func:`image_level_auroc`.
        ValueError: if the blocks do not tile the image.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: got {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    blocks = block_scores(maps * body, size=size)
    lesion, inside = (max_pool2d(mask.float(), size) > 0 for mask in (masks & body, body))
    counted = inside if protocol == "in-body" else torch.ones_like(inside)
    return image_level_auroc(blocks, lesion, counted, patients=patients, seed=seed)


def slice_scores(maps: torch.Tensor, body: torch.Tensor) -> Values:
    """Highest in-body value of each slice: maps and body (B, 1, H, W) to float64 (B,)."""
    return maps.masked_fill(~body, -torch.inf).flatten(1).amax(dim=1).double().numpy()


def slice_level_auroc(
    healthy: ArrayLike, lesion: ArrayLike, *, patients: Sequence[Sequence[Hashable]] | None = None, seed: int = 0
) -> Estimate:
    """ROC of healthy against lesion slices by their :func:`slice_scores`, (N,) and (M,); patients of each."""
    return bootstrap(_pairs_in_order, healthy, lesion, patients=patients, seed=seed)


def sensitivity(
    healthy: ArrayLike,
    lesion: ArrayLike,
    *,
    specificity: float = 0.95,
    patients: Sequence[Sequence[Hashable]] | None = None,
    seed: int = 0,
) -> Estimate:
    """Share of lesion slices found when at least ``specificity`` of the healthy ones score at or below the threshold.

    Args:
        healthy: slice scores (N,).
        lesion: slice scores (M,).
        specificity: share of healthy slices called healthy.
        patients: as in :func:`bootstrap`.
        seed: of the bootstrap, which draws the threshold anew with the healthy slices.
    """

    def found(negative: Values, positive: Values) -> float:
        return float(np.mean(positive > np.quantile(negative, specificity, method="higher")))

    return bootstrap(found, healthy, lesion, patients=patients, seed=seed)


def false_positive_rate(
    healthy: ArrayLike,
    lesion: ArrayLike,
    *,
    true_positive_rate: float = 0.95,
    patients: Sequence[Sequence[Hashable]] | None = None,
    seed: int = 0,
) -> Estimate:
    """Share of healthy slices at or above the highest threshold that finds so many lesion slices (FPR at 95 % TPR).

    Args:
        healthy: slice scores (N,).
        lesion: slice scores (M,).
        true_positive_rate: share of lesion slices found, at least.
        patients: as in :func:`bootstrap`.
        seed: of the bootstrap, which draws the threshold anew with the lesion slices.
    """

    def raised(negative: Values, positive: Values) -> float:
        found = int(np.ceil(true_positive_rate * len(positive) - 1e-9))  # 0.95 x 20 is 19, rounding aside
        return float(np.mean(negative >= np.sort(positive)[-max(found, 1)]))

    return bootstrap(raised, healthy, lesion, patients=patients, seed=seed)


def by_lesion(
    statistic: Callable[[NDArray[np.integer[Any]]], float],
    ill: ArrayLike,
    *,
    patients: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """A statistic of slices or scans that are chosen by index, with its interval over patients.

    Patients with a lesion in any of them and patients without are resampled on their own, so none goes without lesions.

    Args:
        statistic: function of indices (n,), which may repeat.
        ill: bool (N,), True where there is a lesion.
        patients: whose each of the N is; None means that every one is another patient's.
        seed: of the bootstrap.

    Raises:
        InputError: if none has a lesion.
    """
    lesion = np.asarray(ill, dtype=bool)
    names = list(range(len(lesion))) if patients is None else list(patients)
    with_lesion = {name for name, sick in zip(names, lesion, strict=True) if sick}
    if not with_lesion:
        raise InputError(f"lesions: got none in {len(lesion)} slices or scans, expected at least one")
    sick = np.array([name in with_lesion for name in names])
    groups = [group for group in (np.flatnonzero(sick), np.flatnonzero(~sick)) if len(group)]

    def chosen(*indices: Values) -> float:
        return statistic(np.concatenate(indices).astype(int))

    return bootstrap(chosen, *groups, patients=[[names[i] for i in group] for group in groups], seed=seed)


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    """Dice overlap of two bool masks of one shape (H, W) or (X, Y, Z); 1 if both are empty."""
    return float(compute_dice(a[None, None], b[None, None], ignore_empty=False))


def check_shapes(maps: torch.Tensor, masks: torch.Tensor, body: torch.Tensor) -> None:
    """Refuse masks and bodies of another shape than the maps."""
    if not maps.shape == masks.shape == body.shape:
        raise InputError(
            f"masks and body: got shapes {tuple(masks.shape)} and {tuple(body.shape)}, expected {tuple(maps.shape)}"
        )


def _mean(values: Values) -> float:
    return float(np.mean(values))


def _pairs_in_order(healthy: Values, lesion: Values) -> float:
    """AUROC as the share of pairs in the right order (Mann-Whitney), fast enough to be resampled."""
    return float(np.mean((lesion[:, None] > healthy) + 0.5 * (lesion[:, None] == healthy)))
