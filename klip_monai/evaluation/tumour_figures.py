"""Figures of one scan with voxel masks of its lesions, and what scans give together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import Estimate, Values, auroc, bootstrap, slice_scores
from klip_monai.evaluation.peaks import Peaks, find_peaks, sensitivity_at
from klip_monai.evaluation.precision_recall import average_precision, best_dice
from klip_monai.scoring import MIN_ML, IDReference, find_candidates, threshold_heatmap

FALSE_PEAKS = (0.5, 1.0, 2.0, 4.0)
"""False peaks a scan at which the share of lesions found is told."""
LEAST_ML = (0.0, 1.0)
"""Volumes from which lesions are counted, ml."""
REGIONS = ("body", "organ")

_IGNORED = -1


@dataclass(frozen=True)
class TumourScan:
    """Figures of one scan; None where it has no lesion.

    Attributes:
        name: of the scan.
        slices: number of slices.
        lesion_slices: number of slices with a lesion.
        lesions: number of lesions (connected in 3D).
        lesion_ml: volume of each, ml on the prior's grid.
        organ_lesions: numbers, from 1, of those that reach into the organ.
        in_body: image-level AUROC over in-body pixels, mean over lesion slices.
        in_organ: the same over the organ's pixels.
        slice_level: AUROC of the slices' in-body maxima, without against with a lesion.
        organ_slice_level: the same of maxima in the organ, over slices that show it.
        average_precision: over the in-body pixels of all slices.
        prevalence: share of in-body pixels in a lesion: the average precision of chance.
        organ_average_precision: over the organ's pixels of all slices.
        organ_prevalence: share of them in a lesion; None if no slice shows the organ.
        best_dice: highest Dice over thresholds, in-body.
        scan_score: maximum of the heat map in the body.
        p_value: against the ID reference; None without one.
        peaks: heat map at each peak, and the number of the lesion that it lies in, from 1, or 0.
        organ_peaks: the same of the heat map in the organ alone.
        candidates: number of candidates, see :func:`klip_monai.scoring.find_candidates`; None without an ID reference.
        first_true: rank of the first one whose peak lies in a lesion; None if there is none.
    """

    name: str
    slices: int
    lesion_slices: int
    lesions: int
    lesion_ml: tuple[float, ...]
    organ_lesions: tuple[int, ...]
    in_body: float | None
    in_organ: float | None
    slice_level: float | None
    organ_slice_level: float | None
    average_precision: float | None
    prevalence: float
    organ_average_precision: float | None
    organ_prevalence: float | None
    best_dice: float | None
    scan_score: float
    p_value: float | None
    peaks: tuple[tuple[float, int], ...]
    organ_peaks: tuple[tuple[float, int], ...]
    candidates: int | None
    first_true: int | None

    def counted(self, region: str, *, least_ml: float) -> tuple[int, Peaks]:
        """Number of the lesions in a region of at least so many ml, and the peaks there; those of others are left out.

        Args:
            region: "body" or "organ".
            least_ml: the least volume of a lesion.
        """
        inside = range(1, self.lesions + 1) if region == "body" else self.organ_lesions
        large = {number for number in inside if self.lesion_ml[number - 1] >= least_ml}
        peaks = self.peaks if region == "body" else self.organ_peaks
        return len(large), [(value, lesion) for value, lesion in peaks if lesion == 0 or lesion in large]


@dataclass(frozen=True)
class Sensitivity:
    """How many lesions are found at a number of false peaks: a point of the free-response ROC.

    Attributes:
        region: "body" or "organ": where peaks and lesions count.
        least_ml: lesions of less volume are neither right nor wrong to find.
        false_peaks: peaks in no lesion, mean over scans.
        lesions: number of lesions that count.
        found: number of them with a peak in them.
        share: found of lesions, with its interval over scans.
    """

    region: str
    least_ml: float
    false_peaks: float
    lesions: int
    found: int
    share: Estimate


@dataclass(frozen=True)
class TumourRow:
    """Figures of one way to score: means over scans with lesions, intervals over scans.

    Attributes:
        scans: figures of each scan.
        in_body: mean of the scans' image-level AUROC in the body.
        in_organ: that in the organ.
        average_precision: mean of the scans' average precision in the body.
        organ_average_precision: that in the organ.
        sensitivity: by region, least volume and number of false peaks; none where no lesion is as large.
    """

    scans: tuple[TumourScan, ...]
    in_body: Estimate
    in_organ: Estimate
    average_precision: Estimate
    organ_average_precision: Estimate
    sensitivity: tuple[Sensitivity, ...]

    def found(self, region: str, *, least_ml: float, false_peaks: float) -> Sensitivity | None:
        """A point of the free-response ROC; None if there is no such lesion."""
        wanted = region, least_ml, false_peaks
        return next((s for s in self.sensitivity if (s.region, s.least_ml, s.false_peaks) == wanted), None)


def row_of(scans: Sequence[TumourScan]) -> TumourRow:
    """What scans give together.

    Raises:
        InputError: if no scan has a lesion in the organ.
    """
    names = ("in_body", "in_organ", "average_precision", "organ_average_precision")
    values = [[value for scan in scans if (value := getattr(scan, name)) is not None] for name in names]
    if not all(values):
        raise InputError(
            f"scans: got {len(scans)} without any lesion in the organ, expected at least one with a lesion"
        )
    points = [
        _sensitivity(scans, region, least_ml, false_peaks)
        for region in REGIONS
        for least_ml in LEAST_ML
        for false_peaks in FALSE_PEAKS
    ]
    in_body, in_organ, precision, organ_precision = (bootstrap(mean, part) for part in values)
    return TumourRow(tuple(scans), in_body, in_organ, precision, organ_precision, tuple(p for p in points if p))


def _sensitivity(scans: Sequence[TumourScan], region: str, least_ml: float, false_peaks: float) -> Sensitivity | None:
    lesions, peaks = zip(*(scan.counted(region, least_ml=least_ml) for scan in scans), strict=True)
    total = sum(lesions)
    if not total:
        return None
    share = sensitivity_at(peaks, lesions, false_positives=false_peaks)
    return Sensitivity(region, least_ml, false_peaks, total, round(share.value * total), share)


def measured(
    heat: torch.Tensor,
    *,
    lesion: torch.Tensor,
    organ: torch.Tensor,
    body: torch.Tensor,
    affine: NDArray[np.float64],
    name: str,
    ignore: torch.Tensor | None = None,
    reference: IDReference | None = None,
) -> TumourScan:
    """Figures of a heat map.

    Args:
        heat: float (Z, H, W), nats per pixel.
        lesion: bool (Z, H, W).
        organ: bool (Z, H, W); contains the lesions that count for it.
        body: bool (Z, H, W); pixels outside do not count.
        affine: (4, 4) of the slices stacked as (H, W, Z), to RAS mm.
        name: of the scan.
        ignore: bool (Z, H, W), neither right nor wrong to find: its pixels do not count, nor do peaks in it.
        reference: gives p and candidates; None gives neither.
    """
    ignored = torch.zeros_like(body) if ignore is None else ignore
    organ, body = organ & body & ~ignored, body & ~ignored
    lesion = lesion & body
    row_mm, column_mm, slice_mm = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    ill = lesion.flatten(1).any(dim=1)
    parts, lesions = lesion_parts(lesion)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    # Peaks are looked for in what is ignored, too, and then dropped: its edge would be a false peak otherwise.
    numbers = np.where(ignored.numpy(), _IGNORED, parts)
    peaks = [
        _counted(find_peaks((heat * (region | ignored)).numpy(), numbers, spacing_mm=(slice_mm, row_mm, column_mm)))
        for region in (body, organ)
    ]
    inside, in_organ = ((heat[region].numpy(), lesion[region].numpy()) for region in (body, organ))
    scan_score = float(heat[body].max())
    true = None if reference is None else _candidates(heat, numbers, affine=affine, reference=reference)
    return TumourScan(
        name=name,
        slices=len(heat),
        lesion_slices=int(ill.sum()),
        lesions=lesions,
        lesion_ml=tuple((np.bincount(parts.ravel(), minlength=lesions + 1)[1:] * voxel_ml).tolist()),
        organ_lesions=tuple(int(number) for number in np.unique(parts[organ.numpy()]) if number),
        in_body=mean_or_none(slice_aurocs(heat, lesion, body)),
        in_organ=mean_or_none(slice_aurocs(heat, lesion, organ)),
        slice_level=_slice_level(heat, ill, body),
        organ_slice_level=_slice_level(heat, ill, organ),
        average_precision=average_precision(*inside) if lesions else None,
        prevalence=float(inside[1].mean()),
        organ_average_precision=average_precision(*in_organ) if in_organ[1].any() else None,
        organ_prevalence=float(in_organ[1].mean()) if len(in_organ[1]) else None,
        best_dice=best_dice(*inside) if lesions else None,
        scan_score=scan_score,
        p_value=reference.p_value(scan_score) if reference else None,
        peaks=peaks[0],
        organ_peaks=peaks[1],
        candidates=None if true is None else len(true),
        first_true=None if true is None or True not in true else 1 + true.index(True),
    )


def lesion_parts(lesion: torch.Tensor) -> tuple[NDArray[np.int32], int]:
    """Number each lesion, 26-connected: bool (Z, H, W) to int32 (Z, H, W), 0 outside, and how many there are."""
    parts, lesions = ndimage.label(lesion.numpy(), np.ones((3, 3, 3)))
    return parts, int(lesions)


def labelled_heat(heat: torch.Tensor, *, affine: NDArray[np.float64], reference: IDReference) -> NDArray[np.uint8]:
    """Labels of a heat map (Z, H, W) by a reference's thresholds: uint8 (H, W, Z); arguments as for `measured`."""
    return threshold_heatmap(
        heat.permute(1, 2, 0).numpy(),
        suspicious=reference.suspicious,
        strong=reference.strong,
        voxel_ml=float(abs(np.linalg.det(affine[:3, :3]))) / 1000,
        min_ml=MIN_ML,
    )


def _candidates(
    heat: torch.Tensor, numbers: NDArray[np.int32], *, affine: NDArray[np.float64], reference: IDReference
) -> list[bool]:
    """Of each candidate by rank, whether its peak lies in a lesion; those in what is ignored are left out."""
    labels = labelled_heat(heat, affine=affine, reference=reference)
    found = find_candidates(heat.permute(1, 2, 0).numpy(), labels, affine, reference)
    at = [int(numbers[z, row, column]) for row, column, z in (candidate.voxel for candidate in found)]
    return [number > 0 for number in at if number != _IGNORED]


def _counted(peaks: Peaks) -> tuple[tuple[float, int], ...]:
    return tuple((value, lesion) for value, lesion in peaks if lesion != _IGNORED)


def slice_aurocs(heat: torch.Tensor, lesion: torch.Tensor, region: torch.Tensor) -> list[float | None]:
    """AUROC over the pixels of a region in each slice; None where these are not both in a lesion and out of one.

    Args:
        heat: float (Z, H, W).
        lesion: bool (Z, H, W).
        region: bool (Z, H, W); pixels outside do not count.
    """
    pairs = [(h[r].numpy(), y[r].numpy()) for h, y, r in zip(heat, lesion, region, strict=True)]
    return [auroc(h, y) if y.any() and not y.all() else None for h, y in pairs]


def _slice_level(heat: torch.Tensor, ill: torch.Tensor, region: torch.Tensor) -> float | None:
    shown = region.flatten(1).any(dim=1)
    if not bool((ill & shown).any()) or bool(ill[shown].all()):
        return None
    return auroc(slice_scores(heat[shown][:, None], region[shown][:, None]), ill[shown].numpy())


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Mean of those that are figures; None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def mean(values: Values) -> float:
    """Mean of (N,), to be bootstrapped."""
    return float(np.mean(values))
