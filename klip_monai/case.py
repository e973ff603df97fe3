"""The result of one scan: its summary and its files."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from klip_monai import __version__
from klip_monai.errors import InputError
from klip_monai.io.atomic import publish
from klip_monai.io.dicom_pixels import PADDING_HU
from klip_monai.io.overlay import write_heatmap, write_labels, write_segmentation
from klip_monai.io.preview import write_preview
from klip_monai.io.straighten import leans, straighten
from klip_monai.io.summary import write_summary
from klip_monai.scoring import LABEL_NAMES, IDReference, islands

NOTICE = "Research use only. Not a medical device; not for diagnosis."
_NATS = ("nats per pixel", "nats per pixel of the prior's grid, calibrated to average healthy tissue")
_TWINS = ("times the twins", "multiples of what twins made by the prior score, calibrated to average healthy tissue")
_LIBRARIES = ("torch", "monai", "numpy", "astra-toolbox", "pydicom", "highdicom", "SimpleITK", "nibabel")


OUTPUTS: dict[str, dict[str, str]] = {
    "nifti": {"heatmap": "heatmap.nii.gz", "labels": "labels.nii.gz"},
    "seg-nrrd": {"segmentation": "overlay.seg.nrrd"},
    "dicom-seg": {"dicom_seg": "seg.dcm"},
    "dicom-pm": {"dicom_pm": "pm.dcm"},
}
"""Outputs that can be chosen: endings of their files, by kind. Preview and summary are always written."""

DEFAULT_OUTPUTS = ("nifti", "seg-nrrd")


def file_names(name: str, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> dict[str, str]:
    """Names of the files of a case, by kind.

    Raises:
        InputError: for an output that is not among :data:`OUTPUTS`.
    """
    unknown = [output for output in outputs if output not in OUTPUTS]
    if unknown:
        raise InputError(
            f"outputs: got {', '.join(unknown)}, expected some of {', '.join(OUTPUTS)}; check the spelling"
        )
    endings = {kind: ending for output in outputs for kind, ending in OUTPUTS[output].items()}
    endings |= {"preview": "preview.png", "summary": "summary.json"}
    return {kind: f"{name}_{ending}" for kind, ending in endings.items()}


@dataclass(frozen=True)
class Case:
    """One scored scan.

    Attributes:
        volume: the scan, float32 HU (1, X, Y, Z), from :class:`klip_monai.transforms.LoadSeriesd`.
        heatmap: calibrated KL density, float32 (1, X, Y, Z), in the unit that the
            summary names.
        labels: uint8 (1, X, Y, Z).
        scan_score: maximum of the heat map on the prior's grid.
        reference: ID reference of the settings that made the heat map.
        provenance: bundle, weights hash and settings, JSON-able.
    """

    volume: MetaTensor
    heatmap: MetaTensor
    labels: MetaTensor
    scan_score: float
    reference: IDReference
    provenance: Mapping[str, Any]


def summarize(case: Case) -> dict[str, Any]:
    """What was found in a scan, JSON-able: scores in nats per pixel, volumes in ml, positions in RAS mm."""
    volume, reference = case.volume, case.reference
    affine = np.asarray(volume.affine, dtype=np.float64)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    values: NDArray[np.float32] = case.heatmap[0].cpu().numpy()
    label_values: NDArray[np.uint8] = case.labels[0].cpu().numpy()
    worst = np.unravel_index(int(values.argmax()), values.shape)
    per_slice = values.max(axis=(0, 1))
    found = []
    for _, box, ml, inside in islands(label_values, voxel_ml=voxel_ml)[:10]:
        centre = [float(np.mean(index)) + part.start for index, part in zip(np.nonzero(inside), box, strict=True)]
        found.append(
            {
                "volume_ml": ml,
                "label": int(label_values[box][inside].max()),
                "peak": float(values[box][inside].max()),
                "centre_ras_mm": (affine @ [*centre, 1.0])[:3].tolist(),
            }
        )
    return {
        "notice": NOTICE,
        "name": volume.meta["name"],
        "source": {
            "format": volume.meta["format"],
            "series_uid": volume.meta["series_uid"] or None,
            "shape": list(values.shape),
            "spacing_mm": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
            "affine_ras_mm": affine.tolist(),
        },
        "unit": _unit(case.provenance)[1],
        "scan_score": case.scan_score,
        "p_value": reference.p_value(case.scan_score),
        "worst": {
            "voxel": [int(i) for i in worst],
            "ras_mm": (affine @ [*worst, 1.0])[:3].tolist(),
            "slices": [int(z) for z in np.argsort(per_slice)[::-1][:5]],
        },
        "slice_scores": per_slice.tolist(),
        "volume_ml": {name: float((label_values >= n).sum() * voxel_ml) for n, name in LABEL_NAMES.items() if n},
        "islands": found,
        "thresholds": {
            "suspicious": reference.suspicious,
            "strong": reference.strong,
            "key": reference.key,
            "healthy_scans": len(reference.scan_scores),
            "slices_per_healthy_scan": reference.slices,
            "healthy_score_range": [reference.scan_scores[0], reference.scan_scores[-1]],
            "description": reference.description,
            "calibration": asdict(reference.expected),
        },
        "remarks": _reading_remarks(volume) + remarks(values.shape[2], reference),
        "provenance": dict(case.provenance),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that a result depends on, by name."""
    return {"klip_monai": __version__} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _unit(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """Unit of a heat map, short and long."""
    return _TWINS if provenance.get("settings", {}).get("twins") else _NATS


def remarks(slices: int, reference: IDReference) -> list[str]:
    """What a reader of the p-value has to know, in sentences; none for a scan like those of the reference."""
    if slices <= 1.5 * reference.slices:
        return []
    return [
        f"p-value: got {slices} slices, the reference's healthy scans have {reference.slices}. The highest of more "
        "slices is higher by chance, so p is too small; calibrate with scans of this length."
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


def save_case(case: Case, output_dir: str | Path, *, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> dict[str, Any]:
    """Write all files of a case, or none.

    Args:
        case: the scored scan.
        output_dir: folder; made if missing.
        outputs: which of :data:`OUTPUTS` to write. The DICOM ones carry the patient module of the source, so that an
            archive files them with its study; no other output carries anything of it.

    Returns:
        The summary, with timings and the paths of the ``files``.

    Raises:
        InputError: an unknown output, or a DICOM output of a scan that was not read from DICOM files.
        OutputError: if the folder cannot be written to; nothing is left behind then.
    """
    start = time.perf_counter()
    summary, reference, meta = summarize(case), case.reference, case.volume.meta
    names = file_names(summary["name"], outputs)
    affine = np.asarray(case.volume.affine, dtype=np.float64)
    ct, nats, label_values = (part[0].cpu().numpy() for part in (case.volume, case.heatmap, case.labels))
    ct, _ = straighten(ct, affine, fill=PADDING_HU)
    nats, _ = straighten(nats, affine)
    label_values, straight = straighten(label_values, affine, nearest=True)
    with publish(output_dir, last=names["summary"]) as staging:
        if "nifti" in outputs:
            write_heatmap(staging / names["heatmap"], nats, straight)
            write_labels(staging / names["labels"], label_values, straight)
        if "seg-nrrd" in outputs:
            write_segmentation(staging / names["segmentation"], label_values, straight)
        if {"dicom-seg", "dicom-pm"} & set(outputs):
            _write_dicom(case, staging, names)
        write_preview(
            staging / names["preview"],
            ct,
            nats,
            label_values,
            straight,
            title=summary["name"],
            scale=_scale(reference),
            thresholds=(reference.suspicious, reference.strong),
            lines=_headlines(summary),
            unit=_unit(case.provenance)[0],
        )
        summary["timings_s"] = {
            "read": float(meta["read_seconds"]),
            "score": start - float(meta["read_at"]),
            "write": time.perf_counter() - start,
        }
        write_summary(staging / names["summary"], summary)
    summary["files"] = {kind: str(Path(output_dir) / name) for kind, name in names.items()}
    return summary


def _scale(reference: IDReference) -> tuple[float, float]:
    """Heat map values shown as the first and the last colour: the same for every scan of a bundle."""
    return 0.5 * reference.suspicious, 1.25 * reference.strong


def _write_dicom(case: Case, folder: Path, names: Mapping[str, str]) -> None:
    """Write the DICOM objects that have a name."""
    from klip_monai.io.dicom_overlay import NATS_PER_PIXEL, TIMES_THE_TWINS, Algorithm, write_dicom_pm, write_dicom_seg
    from klip_monai.io.dicom_source import source_headers

    meta, provenance = case.volume.meta, case.provenance
    affine = np.asarray(case.volume.affine, dtype=np.float64)
    if meta["format"] != "dicom" or not meta["series_uid"]:
        raise InputError(
            f"outputs: got {meta['format']} without a DICOM series, expected one for dicom-seg and dicom-pm, which are "
            "filed with its study; leave them out"
        )
    source = source_headers(case.volume)
    algorithm = Algorithm(provenance["bundle"], provenance["bundle_version"], provenance.get("key", ""))
    if "dicom_seg" in names:
        write_dicom_seg(folder / names["dicom_seg"], case.labels[0], affine, source=source, algorithm=algorithm)
    if "dicom_pm" in names:
        write_dicom_pm(
            folder / names["dicom_pm"],
            case.heatmap[0],
            affine,
            source=source,
            algorithm=algorithm,
            scale=_scale(case.reference),
            unit=NATS_PER_PIXEL if _unit(provenance) is _NATS else TIMES_THE_TWINS,
        )


def _headlines(summary: Mapping[str, Any]) -> list[str]:
    thresholds, provenance = summary["thresholds"], summary["provenance"]
    return [
        f"Scan score {summary['scan_score']:.3g} {_unit(provenance)[0]}, p = {summary['p_value']:.3f}",
        f"against {thresholds['healthy_scans']} healthy scans "
        f"({thresholds['healthy_score_range'][0]:.3g} to {thresholds['healthy_score_range'][1]:.3g})",
        f"Prior {provenance['bundle']} {provenance['bundle_version']}",
        *summary["remarks"],
    ]
