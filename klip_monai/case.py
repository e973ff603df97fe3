"""The result of one scan: what was found, and its files; see :mod:`klip_monai.outputs` for each of them."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from klip_monai import __version__
from klip_monai.io.atomic import check_free, publish
from klip_monai.io.preview_geometry import first_maximum
from klip_monai.io.straighten import leans
from klip_monai.io.summary import write_summary
from klip_monai.output_files import DEFAULT_OUTPUTS, case_files, file_names
from klip_monai.outputs import WRITERS, Writing, write_picture
from klip_monai.region import Region
from klip_monai.scoring import LABEL_NAMES, Candidate, ContextNull, IDReference, what_p_and_q_mean
from klip_monai.scoring.candidates import ranked
from klip_monai.standard import distance_of_standard_slices, slice_axis

NOTICE = "Research use only. Not a medical device; not for diagnosis."
_LIBRARIES = ("torch", "monai", "numpy", "astra-toolbox", "pydicom", "highdicom", "SimpleITK", "nibabel")
_LISTED = 50  # candidates in a summary; all are counted


@dataclass(frozen=True)
class Case:
    """One scored scan.

    Attributes:
        volume: the scan, float32 HU (1, X, Y, Z), from :class:`klip_monai.transforms.LoadSeriesd`.
        heatmap: KL density, float32 (1, X, Y, Z), calibrated unless the reference's null is "none", in the unit that
            the summary names.
        labels: uint8 (1, X, Y, Z).
        scan_score: maximum of the heat map on the prior's grid.
        reference: ID reference of the settings that made the heat map.
        provenance: bundle, weights hash and settings, JSON-able.
        keep_names: whether files may say whose scan it is: the summary then has the series UID.
        region: bool (1, X, Y, Z), the part of the scan that was looked at, from
            :class:`klip_monai.region.LoadRegiond`; None is all of it.
    """

    volume: MetaTensor
    heatmap: MetaTensor
    labels: MetaTensor
    scan_score: float
    reference: IDReference
    provenance: Mapping[str, Any]
    keep_names: bool = False
    region: MetaTensor | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The suspicious places, connected and ranked; the first that a summary lists."""
        return self._candidates[0]

    @property
    def candidate_count(self) -> int:
        """Number of all suspicious places."""
        return self._candidates[1]

    @cached_property
    def _candidates(self) -> tuple[tuple[Candidate, ...], int]:
        return ranked(
            self.heatmap[0].cpu().numpy(),
            self.labels[0].cpu().numpy(),
            np.asarray(self.volume.affine, dtype=np.float64),
            self.reference,
            scan_score=self.scan_score,
            most=_LISTED,
        )

    @property
    def uses_twins(self) -> bool:
        """Whether the heat map was measured against twins."""
        return bool(self.provenance.get("settings", {}).get("twins"))

    @property
    def scoring_remarks(self) -> list[str]:
        """How the slices were scored, if it was not as the settings would have it, in a sentence."""
        settings = self.provenance.get("settings", {})
        in_space = any(settings.get(name) for name in ("lowpass_z_mm", "smoothing_z_mm"))
        affine = np.asarray(self.volume.affine, dtype=np.float64)
        if not in_space or distance_of_standard_slices(affine) is not None:
            return []
        return ["scoring: slices do not lie straight above each other, so each was scored by itself, in its plane."]

    @property
    def unit(self) -> str:
        """Unit of the heat map in a few words."""
        return "times the twins" if self.uses_twins else "nats per pixel"

    @property
    def unit_in_full(self) -> str:
        """Unit of the heat map, and what it is a multiple or a density of."""
        meant = (
            "multiples of what twins made by the prior score" if self.uses_twins else f"{self.unit} of the prior's grid"
        )
        return f"{meant}, {'calibrated to average healthy tissue' if self.is_calibrated else 'not calibrated'}"

    @property
    def is_calibrated(self) -> bool:
        """Whether healthy tissue's density was divided out of the heat map, in whole or in part."""
        expected = self.reference.expected
        return (expected.contrast if isinstance(expected, ContextNull) else expected).strength > 0


def summarize(case: Case) -> dict[str, Any]:
    """What was found in a scan, JSON-able: scores in nats per pixel, volumes in ml, positions in RAS mm."""
    volume, reference = case.volume, case.reference
    affine = np.asarray(volume.affine, dtype=np.float64)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    values, labels = case.heatmap[0].cpu().numpy(), case.labels[0].cpu().numpy()
    region = None if case.region is None else Region.of(case.region)
    about_p = remarks(values.shape[slice_axis(affine)] if region is None else region.slices, reference)
    worst = first_maximum(values)
    per_slice = values.max(axis=(0, 1))
    return {
        "notice": NOTICE,
        "name": volume.meta["name"],
        "source": {
            "format": volume.meta["format"],
            "shape": list(values.shape),
            "spacing_mm": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
            "affine_ras_mm": affine.tolist(),
            **({"series_uid": volume.meta["series_uid"] or None} if case.keep_names else {}),
        },
        "region": None if region is None else region.describe(),
        "unit": case.unit_in_full,
        "scan_score": case.scan_score,
        "p_value": reference.p_value(case.scan_score),
        "worst": {
            "voxel": list(worst),
            "ras_mm": (affine @ [*worst, 1.0])[:3].tolist(),
            "slices": [int(z) for z in np.argsort(per_slice)[::-1][:5]],
        },
        "slice_scores": per_slice.tolist(),
        "volume_ml": {name: float((labels >= n).sum() * voxel_ml) for n, name in LABEL_NAMES.items() if n},
        "candidate_count": case.candidate_count,
        "candidates": [candidate.to_json() for candidate in case.candidates],
        "p_and_q": what_p_and_q_mean(reference),
        "thresholds": {
            "suspicious": reference.suspicious,
            "strong": reference.strong,
            "key": reference.key,
            "healthy_scans": len(reference.scan_scores),
            "healthy_people": reference.people,
            "healthy": reference.in_words,
            "least_p": reference.least_p,
            "slices_per_healthy_scan": reference.slices,
            "healthy_score_range": [reference.scan_scores[0], reference.scan_scores[-1]],
            "description": reference.description,
            "calibration": _calibration(case),
        },
        "remarks": [
            *_reading_remarks(volume),
            *case.scoring_remarks,
            *about_p,
            *([] if region is None else region.remarks(is_long=bool(about_p))),
        ],
        "provenance": dict(case.provenance),
        "versions": versions(),
    }


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


def save_case(
    case: Case, output_dir: str | Path, *, outputs: Sequence[str] = DEFAULT_OUTPUTS, overwrite: bool = False
) -> dict[str, Any]:
    """Write all files of a case, or none.

    Args:
        case: the scored scan.
        output_dir: folder; made if missing.
        outputs: which of :data:`klip_monai.output_files.OUTPUTS` to write. The DICOM ones carry the patient module of
            the source, so that an archive files them with its study; no other output carries anything of it.
        overwrite: replace the files of this case that are there, also those of other outputs, instead of refusing.

    Returns:
        The summary, with timings and the paths of the ``files``.

    Raises:
        InputError: an unknown output, or a DICOM output of a scan that was not read from DICOM files.
        OutputError: if the folder cannot be written to, or holds files of this case; all is left as it was then.
    """
    start = time.perf_counter()
    summary, meta = summarize(case), case.volume.meta
    names, all_names = file_names(summary["name"], outputs), case_files(summary["name"])
    if not overwrite:
        check_free(output_dir, all_names)
    summary["timings_s"] = {"read": float(meta["read_seconds"]), "score": start - float(meta["read_at"])}
    with publish(output_dir, last=names["summary"], rivals=all_names, overwrite=overwrite) as staging:
        writing = Writing(case, summary, staging, names)
        for output in outputs:
            WRITERS[output](writing)
        write_picture(writing)
        summary["timings_s"]["write"] = time.perf_counter() - start
        write_summary(staging / names["summary"], summary)
    summary["files"] = {kind: str(Path(output_dir) / name) for kind, name in names.items()}
    return summary
