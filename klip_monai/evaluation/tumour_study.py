"""The tumour study: real scans with voxel masks of their lesions, scored whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from klip_monai.errors import InputError
from klip_monai.evaluation.progress import steps, study_progress
from klip_monai.evaluation.tumour_figures import TumourRow, TumourScan, measured, row_of
from klip_monai.evaluation.tumour_pictures import Panel, panel_of
from klip_monai.io import read_volume
from klip_monai.scan import Scorer
from klip_monai.standard import resample_mask, slice_distance, standard_slices

ONLY = "default"
"""Name of a score that comes without one."""


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
class TumourStudy:
    """Result of :func:`run_tumour_study`.

    Attributes:
        rows: figures by name of the score.
        panels: what pictures are drawn from, one for each score and scan with a lesion; empty if not asked for.
    """

    rows: Mapping[str, TumourRow]
    panels: tuple[Panel, ...] = ()


def run_tumour_study(
    score: Scorer | Mapping[str, Scorer], scans: Sequence[LabelledScan], *, pictures: bool = False
) -> TumourStudy:
    """Score labelled scans, as the bundle would: in three dimensions where the score's inferer says so.

    Args:
        score: the transform, or several by name, to be compared.
        scans: what to score.
        pictures: keep what :func:`klip_monai.evaluation.save_tumour_study` draws a picture of each scan from.

    Raises:
        InputError: if no scan has a lesion, or labels lie on another grid than their scan.
    """
    scores = {ONLY: score} if isinstance(score, Scorer) else dict(score)
    figures: dict[str, list[TumourScan]] = {name: [] for name in scores}
    panels = []
    with study_progress() as progress:
        for scan in progress.track(scans, description="scans"):
            for name, scored, panel in _scored(scores, scan, progress=progress):
                figures[name].append(scored)
                panels += [panel] * (pictures and panel is not None)
    rows = {name: row_of(parts) for name, parts in figures.items()}
    return TumourStudy(rows, tuple(panel for panel in panels if panel is not None))


def _scored(
    scores: Mapping[str, Scorer], scan: LabelledScan, *, progress: Progress
) -> Iterator[tuple[str, TumourScan, Panel | None]]:
    """Of each score its name, the scan's figures and what to draw, if the scan has a lesion."""
    volume = read_volume(scan.scan)
    values = _labels(scan, shape=tuple(volume.shape[1:]), affine=np.asarray(volume.affine))
    for name, score in scores.items():
        standard = standard_slices(volume, score.grid)
        affine = standard.placement.affine
        task = progress.add_task(f"{scan.scan.name} {name}", total=len(standard.images))
        heat = score.heatmap(
            standard.images, standard.body, slice_mm=slice_distance(affine), progress=steps(progress, task)
        )[:, 0]
        organ, lesion, ignore = (
            resample_mask(np.isin(values, labels), standard.placement)[:, 0]
            for labels in (scan.organ, scan.lesion, scan.ignore)
        )
        body = standard.body[:, 0]
        masks = {"lesion": lesion, "organ": organ, "body": body, "ignore": ignore}
        figures = measured(heat, **masks, affine=affine, name=scan.scan.name, reference=score.reference)
        yield name, figures, panel_of(name, figures, standard, heat, lesion & body & ~ignore, score=score)


def _labels(scan: LabelledScan, *, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.integer]:
    image = nib.load(scan.labels)
    values = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    if values.shape != shape or not np.allclose(image.affine, affine, atol=1e-3):  # type: ignore[attr-defined]
        raise InputError(f"labels {scan.labels.name}: got another voxel grid than {scan.scan.name}, expected the same")
    return values


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
