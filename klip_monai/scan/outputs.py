"""Writing of a case: one function an output, see :mod:`klip_monai.scan.output_files`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from klip_monai.io.dicom.pixels import PADDING_HU
from klip_monai.io.straighten import straighten
from klip_monai.io.write.overlay import write_heatmap, write_labels, write_segmentation
from klip_monai.report.case_report import CaseReport
from klip_monai.report.case_report_html import write_html_report
from klip_monai.report.preview import write_preview
from klip_monai.report.scene import write_scene
from klip_monai.report.shown import Shown
from klip_monai.report.summary import Summary, candidate_in_words
from klip_monai.scan.output_files import DICOM_OUTPUTS

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from pydicom import Dataset

    from klip_monai.io.write.dicom_overlay import Algorithm
    from klip_monai.scan.case import Case


_NUMBERED, _MARKED = 3, 10  # candidates in pictures with their legends, and in scenes


@dataclass(frozen=True)
class Writing:
    """A case that is being written.

    Attributes:
        case: the scored scan.
        summary: what was found in it.
        folder: where to write.
        names: file names by kind, see :func:`klip_monai.scan.output_files.file_names`.
        source: headers of the DICOM images that the scan was read from, for DICOM outputs.
    """

    case: Case
    summary: Summary
    folder: Path
    names: Mapping[str, str]
    source: Sequence[Dataset] = ()

    def path(self, kind: str) -> Path:
        """Where the file of a kind goes."""
        return self.folder / self.names[kind]

    @cached_property
    def shown(self) -> Shown:
        """What viewers and pictures show, which cannot be tilted; the first candidates are numbered."""
        case = self.case
        affine = np.asarray(case.volume.affine, dtype=np.float64)
        ct, heatmap, labels = (part[0].cpu().numpy() for part in (case.volume, case.heatmap, case.labels))
        ct, _ = straighten(ct, affine, fill=PADDING_HU)
        heatmap, _ = straighten(heatmap, affine)
        labels, straight = straighten(labels, affine, nearest=True)
        return Shown(ct, heatmap, labels, straight, self.scale, case.unit, self.region, self.places(_NUMBERED))

    @cached_property
    def region(self) -> NDArray[np.bool_] | None:
        """Voxels of :attr:`shown` that were looked at; None is all of them."""
        if self.case.region is None:
            return None
        affine = np.asarray(self.case.volume.affine, dtype=np.float64)
        return straighten(self.case.region[0].cpu().numpy().astype(np.uint8), affine, nearest=True)[0] > 0

    @property
    def thresholds(self) -> tuple[float, float]:
        """Heat map values from which a voxel is suspicious and strongly suspicious."""
        return self.case.reference.suspicious, self.case.reference.strong

    @property
    def scale(self) -> tuple[float, float]:
        """Heat map values shown as the first and the last colour: the same for every scan of a bundle."""
        suspicious, strong = self.thresholds
        return 0.5 * suspicious, 1.25 * strong

    def places(self, most: int) -> list[tuple[float, float, float]]:
        """Peaks of the first candidates, RAS mm; pictures and lists number them alike."""
        return [candidate.peak_ras_mm for candidate in self.case.candidates[:most]]

    @cached_property
    def report(self) -> CaseReport:
        """Content of the report, for HTML and PDF."""
        return CaseReport(
            self.shown.scan,
            summary=self.summary,
            healthy_scores=self.case.reference.scan_scores,
            scale=self.scale,
            unit=self.case.unit,
        )

    @property
    def algorithm(self) -> Algorithm:
        """What made the overlay."""
        from klip_monai.io.write.dicom_overlay import Algorithm

        origin = self.case.provenance
        return Algorithm(origin.bundle, origin.bundle_version, origin.key)


def check_outputs(volume: MetaTensor, outputs: Collection[str]) -> None:
    """Refuse what cannot be written of a scan before it is scored: each DICOM output is made once, of nothing.

    Args:
        volume: the scan, see :meth:`klip_monai.scan.opened.Reading.volume`.
        outputs: which of :data:`klip_monai.scan.output_files.OUTPUTS` are to be written.

    Raises:
        InputError: a DICOM output of a scan that was not read from DICOM files, or whose headers do not allow it.
    """
    asked = [output for output in DICOM_OUTPUTS if output in outputs]
    if not asked:
        return
    from klip_monai.io.dicom.source import source_headers
    from klip_monai.io.write.dicom_overlay import Algorithm, write_dicom_pm, write_dicom_seg
    from klip_monai.io.write.dicom_pdf import write_dicom_pdf

    images, made_by = source_headers(volume, asked).images, Algorithm("none", "0", "none")
    affine, slice_ = np.asarray(volume.affine, dtype=np.float64), np.zeros((*volume.shape[1:3], 1), dtype=np.float32)
    slice_[0, 0] = 1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tried.dcm"
        if "dicom-seg" in asked:
            write_dicom_seg(path, slice_.astype(np.uint8), affine, source=images, algorithm=made_by)
        if "dicom-pm" in asked:
            write_dicom_pm(path, slice_, affine, source=images, algorithm=made_by, scale=(0.0, 1.0))
        if "dicom-pdf" in asked:
            write_dicom_pdf(path, b"%PDF-", source=images, algorithm=made_by)


def write_picture(writing: Writing) -> None:
    """The preview, which every case has."""
    write_preview(
        writing.path("preview"),
        writing.shown,
        title=writing.summary.name,
        thresholds=writing.thresholds,
        lines=_headlines(writing),
    )


def _nifti(writing: Writing) -> None:
    described = f"KL density, {writing.case.unit}"
    write_heatmap(writing.path("heatmap"), writing.shown.heatmap, writing.shown.affine, description=described)
    write_labels(writing.path("labels"), writing.shown.labels, writing.shown.affine)


def _seg_nrrd(writing: Writing) -> None:
    write_segmentation(writing.path("segmentation"), writing.shown.labels, writing.shown.affine)


def _scene(writing: Writing) -> None:
    write_scene(
        writing.path("scene"),
        replace(writing.shown, places=writing.places(_MARKED)),
        title=writing.summary.name,
        lines=[*_headlines(writing), writing.summary.notice],
    )


def _report(writing: Writing) -> None:
    write_html_report(writing.path("report"), writing.report)


def _dicom_seg(writing: Writing) -> None:
    from klip_monai.io.write.dicom_overlay import write_dicom_seg

    affine = np.asarray(writing.case.volume.affine, dtype=np.float64)
    write_dicom_seg(
        writing.path("dicom_seg"),
        writing.case.labels[0],
        affine,
        source=writing.source,
        algorithm=writing.algorithm,
    )


def _dicom_pm(writing: Writing) -> None:
    from klip_monai.io.write.dicom_overlay import NATS_PER_PIXEL, TIMES_THE_TWINS, write_dicom_pm

    write_dicom_pm(
        writing.path("dicom_pm"),
        writing.case.heatmap[0],
        np.asarray(writing.case.volume.affine, dtype=np.float64),
        source=writing.source,
        algorithm=writing.algorithm,
        scale=writing.scale,
        unit=TIMES_THE_TWINS if writing.case.uses_twins else NATS_PER_PIXEL,
    )


def _dicom_pdf(writing: Writing) -> None:
    from klip_monai.io.write.dicom_pdf import write_dicom_pdf
    from klip_monai.report.case_report_pdf import pdf_report

    write_dicom_pdf(
        writing.path("dicom_pdf"),
        pdf_report(writing.report),
        source=writing.source,
        algorithm=writing.algorithm,
        identifies=writing.case.keep_names,
    )


WRITERS: dict[str, Callable[[Writing], None]] = {
    "nifti": _nifti,
    "seg-nrrd": _seg_nrrd,
    "scene": _scene,
    "report": _report,
    "dicom-seg": _dicom_seg,
    "dicom-pm": _dicom_pm,
    "dicom-pdf": _dicom_pdf,
}
"""What writes each of :data:`klip_monai.scan.output_files.OUTPUTS`."""


def _headlines(writing: Writing) -> list[str]:
    summary = writing.summary
    thresholds, provenance = summary.thresholds, summary.provenance
    lowest, highest = thresholds.healthy_score_range
    return [
        f"Scan score {summary.scan_score:.3g} {writing.case.unit}, p = {summary.p_value:.3f}",
        f"against {thresholds.healthy} ({lowest:.3g} to {highest:.3g})",
        f"Prior {provenance.bundle} {provenance.bundle_version}",
        *([f"Region: {summary.region.volume_ml:.1f} ml"] if summary.region else []),
        *_first_candidates(summary),
        *summary.remarks,
    ]


def _first_candidates(summary: Summary) -> list[str]:
    """The first candidates, a line each, and what the numbers in them mean."""
    listed, count = summary.candidates[:_NUMBERED], summary.candidate_count
    if not listed:
        return []
    lines = [f"{candidate.rank}: {candidate_in_words(candidate)}" for candidate in listed]
    heading = f"{count} candidate{'s' if count > 1 else ''}, the highest first"
    return [f"{heading}:", *lines, summary.p_and_q]
