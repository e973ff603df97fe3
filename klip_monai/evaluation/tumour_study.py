"""The tumour study: real scans with voxel masks of their lesions, scored whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from rich.progress import Progress
from scipy import ndimage

from klip_monai.errors import InputError
from klip_monai.evaluation.metrics import Estimate, Values, auroc, bootstrap, slice_scores
from klip_monai.evaluation.peaks import find_peaks, sensitivity_at
from klip_monai.evaluation.precision_recall import average_precision, best_dice
from klip_monai.evaluation.slice_study import study_progress
from klip_monai.evaluation.tables import cell, save_report, table
from klip_monai.io import read_volume
from klip_monai.standard import resample_mask, standard_slices
from klip_monai.transforms import KLIPScore


@dataclass(frozen=True)
class LabelledScan:
    """A scan and the masks of what is in it.

    Attributes:
        scan: path of a volume.
        labels: path of a NIfTI of integers on the same grid.
        organ: labels of the organ, lesions included.
        lesion: labels of the lesions looked for.
        ignore: labels of anything else abnormal, which is neither right nor wrong to find.
    """

    scan: Path
    labels: Path
    organ: tuple[int, ...]
    lesion: tuple[int, ...]
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True)
class TumourScan:
    """Figures of one scan; None where it has no lesion.

    Attributes:
        name: of the scan.
        slices: number of slices.
        lesion_slices: number of slices with a lesion.
        lesions: number of lesions (connected in 3D).
        in_body: image-level AUROC over in-body pixels, mean over lesion slices.
        in_organ: the same over the organ's pixels.
        slice_level: AUROC of the slices' in-body maxima, without against with a lesion.
        organ_slice_level: the same of maxima in the organ, over slices that show it.
        average_precision: over the in-body pixels of all slices.
        prevalence: share of in-body pixels in a lesion: the average precision of chance.
        best_dice: highest Dice over thresholds, in-body.
        scan_score: maximum of the heat map.
        p_value: against the ID reference; None without one.
        peaks: heat map at each peak, whether it lies in a lesion (number from 1), or 0.
    """

    name: str
    slices: int
    lesion_slices: int
    lesions: int
    in_body: float | None
    in_organ: float | None
    slice_level: float | None
    organ_slice_level: float | None
    average_precision: float | None
    prevalence: float
    best_dice: float | None
    scan_score: float
    p_value: float | None
    peaks: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class TumourStudy:
    """Result of :func:`run_tumour_study`; means over scans with lesions, intervals over scans.

    Attributes:
        scans: figures of each scan.
        in_body: mean of the scans' image-level AUROC in the body.
        in_organ: that in the organ.
        sensitivity: share of lesions with a peak in them, at the threshold where scans have one false peak on average.
    """

    scans: tuple[TumourScan, ...]
    in_body: Estimate
    in_organ: Estimate
    sensitivity: float


def run_tumour_study(score: KLIPScore, scans: Sequence[LabelledScan]) -> TumourStudy:
    """Score labelled scans, as the bundle would.

    Args:
        score: the transform.
        scans: what to score.

    Raises:
        InputError: if no scan has a lesion, or labels lie on another grid than their scan.
    """
    with study_progress() as progress:
        tracked = progress.track(scans, description="scans")
        results = tuple(_scored(score, scan, progress=progress) for scan in tracked)
    in_body = [scan.in_body for scan in results if scan.in_body is not None]
    in_organ = [scan.in_organ for scan in results if scan.in_organ is not None]
    if not in_body or not in_organ:
        raise InputError(
            f"scans: got {len(scans)} without any lesion in the organ, expected at least one with a lesion"
        )
    return TumourStudy(
        results,
        bootstrap(_mean, in_body),
        bootstrap(_mean, in_organ),
        sensitivity_at([s.peaks for s in results], [s.lesions for s in results], false_positives=1.0).value,
    )


def _scored(score: KLIPScore, scan: LabelledScan, *, progress: Progress) -> TumourScan:
    volume = read_volume(scan.scan)
    image = nib.load(scan.labels)
    values = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    if values.shape != volume.shape[1:] or not np.allclose(image.affine, volume.affine, atol=1e-3):  # type: ignore[attr-defined]
        raise InputError(f"labels {scan.labels.name}: got another voxel grid than {scan.scan.name}, expected the same")
    standard = standard_slices(volume, score.grid)
    task = progress.add_task(scan.scan.name, total=len(standard.images))
    score.inferer.progress = lambda done, total: progress.update(task, completed=done)
    heat = score.on_prior_grid(standard.images, standard.body)
    organ, lesion, ignore = (
        resample_mask(np.isin(values, labels), standard.placement) & standard.body
        for labels in (scan.organ, scan.lesion, scan.ignore)
    )
    spacing = (standard.placement.affine[:3, 2] ** 2).sum() ** 0.5, score.grid.pixel_mm, score.grid.pixel_mm
    scan_score = float(heat.max())
    return measured(
        heat[:, 0],
        lesion=lesion[:, 0],
        organ=organ[:, 0] & ~ignore[:, 0],
        body=standard.body[:, 0] & ~ignore[:, 0],
        spacing_mm=spacing,
        name=scan.scan.name,
        p_value=score.reference.p_value(scan_score) if score.reference else None,
    )


def measured(
    heat: torch.Tensor,
    *,
    lesion: torch.Tensor,
    organ: torch.Tensor,
    body: torch.Tensor,
    spacing_mm: tuple[float, float, float],
    name: str,
    p_value: float | None,
) -> TumourScan:
    """Figures of a heat map.

    Args:
        heat: float (Z, H, W).
        lesion: bool (Z, H, W).
        organ: bool (Z, H, W); contains the lesions that count for it.
        body: bool (Z, H, W); pixels outside do not count.
        spacing_mm: of the axes.
        name: of the scan.
        p_value: of the scan.
    """
    ill = lesion.flatten(1).any(dim=1)
    parts, lesions = ndimage.label(lesion.numpy(), np.ones((3, 3, 3)))
    inside = heat[body].numpy(), lesion[body].numpy()
    return TumourScan(
        name=name,
        slices=len(heat),
        lesion_slices=int(ill.sum()),
        lesions=int(lesions),
        in_body=_image_level(heat[ill], lesion[ill], body[ill]),
        in_organ=_image_level(heat[ill], lesion[ill], organ[ill]),
        slice_level=_slice_level(heat, ill, body),
        organ_slice_level=_slice_level(heat, ill, organ),
        average_precision=average_precision(*inside) if lesions else None,
        prevalence=float(inside[1].mean()),
        best_dice=best_dice(*inside) if lesions else None,
        scan_score=float(heat[body].max()),
        p_value=p_value,
        peaks=find_peaks(heat.numpy() * body.numpy(), parts, spacing_mm=spacing_mm),
    )


def _image_level(heat: torch.Tensor, lesion: torch.Tensor, region: torch.Tensor) -> float | None:
    """Mean over slices in which the region has both lesion and other pixels."""
    pairs = [(h[r].numpy(), y[r].numpy()) for h, y, r in zip(heat, lesion, region, strict=True)]
    values = [auroc(h, y) for h, y in pairs if y.any() and not y.all()]
    return float(np.mean(values)) if values else None


def _slice_level(heat: torch.Tensor, ill: torch.Tensor, region: torch.Tensor) -> float | None:
    shown = region.flatten(1).any(dim=1)
    if not bool((ill & shown).any()) or bool(ill[shown].all()):
        return None
    return auroc(slice_scores(heat[shown][:, None], region[shown][:, None]), ill[shown].numpy())


def _mean(values: Values) -> float:
    return float(np.mean(values))


def labelled_scans(
    folder: str | Path, *, organ: Sequence[int], lesion: Sequence[int], ignore: Sequence[int] = ()
) -> list[LabelledScan]:
    """The pairs ``NAME_ct.nii.gz`` and ``NAME_labels.nii.gz`` of a folder; see :class:`LabelledScan`.

    Raises:
        InputError: if there are none, or labels are missing.
    """
    scans = sorted(Path(folder).glob("*_ct.nii.gz"))
    if not scans:
        raise InputError(f"folder {folder}: got no NAME_ct.nii.gz, expected scans with NAME_labels.nii.gz beside them")
    pairs = [(scan, scan.with_name(scan.name.replace("_ct.nii.gz", "_labels.nii.gz"))) for scan in scans]
    missing = [labels.name for _, labels in pairs if not labels.is_file()]
    if missing:
        raise InputError(f"folder {folder}: {missing[0]} is missing beside its scan")
    return [LabelledScan(scan, labels, tuple(organ), tuple(lesion), tuple(ignore)) for scan, labels in pairs]


def tumours_to_markdown(study: TumourStudy) -> str:
    """The study as a Markdown table, one line a scan."""
    head = ["scan", "lesion slices", "lesions", "in-body", "in-organ", "slice-level", "slice-level in the organ"]
    head += ["average precision (chance)", "best Dice", "scan score", "p"]
    rows = [
        [
            scan.name.removesuffix(".nii.gz"),
            f"{scan.lesion_slices} of {scan.slices}",
            str(scan.lesions),
            *map(cell, (scan.in_body, scan.in_organ, scan.slice_level, scan.organ_slice_level)),
            f"{cell(scan.average_precision, 3)} ({scan.prevalence:.3f})",
            cell(scan.best_dice),
            f"{scan.scan_score:.3g}",
            cell(scan.p_value),
        ]
        for scan in study.scans
    ]
    return "\n".join(
        [
            "# Real lesions with voxel masks",
            "",
            f"Image-level AUROC, mean over scans with lesions: in the body **{study.in_body}**, in the organ "
            f"**{study.in_organ}**. Of all lesions {100 * study.sensitivity:.0f} % hold a peak above the level at "
            "which scans have one false peak on average.",
            "",
            "In-body, in-organ: AUROC over these pixels of each lesion slice, averaged over slices. Slice-level: AUROC "
            "of the slices' maxima, without against with a lesion. Average precision and best Dice (over all "
            "thresholds): over the in-body pixels of the whole scan. In brackets 95 % bootstrap intervals over scans.",
            "",
            *table(head, rows),
            "",
        ]
    )


def save_tumour_study(study: TumourStudy, output_dir: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write ``tumour_study.md`` and ``tumour_study.json``, or neither; see :func:`save_report`."""
    save_report(output_dir, "tumour_study", tumours_to_markdown(study), asdict(study), provenance=provenance)
