"""What is told of a scored scan: the content of ``NAME_summary.json``, of pictures and of reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from klip_monai.report.preview_geometry import short_ras_text
from klip_monai.scoring import Candidate

NOTICE = "Research use only. Not a medical device; not for diagnosis."


class _Told:
    """Something that a summary tells."""

    def to_json(self) -> dict[str, Any]:
        """All of it by name, of what JSON knows."""
        assert is_dataclass(self)
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}


@dataclass(frozen=True)
class Source(_Told):
    """The scan.

    Attributes:
        format: "dicom", "nifti", "nrrd" or "memory".
        shape: voxels (X, Y, Z).
        spacing_mm: of the voxels along these axes.
        affine_ras_mm: (4, 4) voxel index to RAS mm.
        series_uid: SeriesInstanceUID, if names were to be kept and there is one.
    """

    format: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine_ras_mm: tuple[tuple[float, ...], ...]
    series_uid: str | None


@dataclass(frozen=True)
class LookedAt(_Told):
    """The region that was looked at.

    Attributes:
        mask_sha256: hash of the mask, see :attr:`klip_monai.io.masks.mask.Mask.sha256`.
        labels: numbers of its labels that count; empty if all do.
        voxels: of the scan that belong to it.
        volume_ml: of these voxels.
        slices: of those that were scored, how many hold one of them.
        share_inside: share of the mask that the scan covers.
        share_scored: share of the region that is scored.
        names: of the mask's file and segments, if names were to be kept.
    """

    mask_sha256: str
    labels: tuple[int, ...]
    voxels: int
    volume_ml: float
    slices: int
    share_inside: float
    share_scored: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Worst(_Told):
    """Where the heat map is highest.

    Attributes:
        voxel: index (x, y, z).
        ras_mm: where it is, RAS mm.
        slices: indices along the third voxel axis of the five slices with the highest values, the highest first.
    """

    voxel: tuple[int, int, int]
    ras_mm: tuple[float, float, float]
    slices: tuple[int, ...]


@dataclass(frozen=True)
class Thresholds(_Told):
    """What the scan is compared with: an ID reference.

    Attributes:
        suspicious: heat map value from which a voxel is, in the heat map's unit.
        strong: likewise, strongly suspicious.
        key: of the settings, see :func:`klip_monai.scoring.settings_key`.
        healthy_scans: number of scans.
        healthy_people: number of people they are of.
        healthy: both in words.
        least_p: smallest p that so many people allow.
        slices_per_healthy_scan: median.
        healthy_score_range: lowest and highest scan score.
        description: what the scans are.
        calibration: what calibrated the heat map.
    """

    suspicious: float
    strong: float
    key: str
    healthy_scans: int
    healthy_people: int
    healthy: str
    least_p: float
    slices_per_healthy_scan: int
    healthy_score_range: tuple[float, float]
    description: str
    calibration: Mapping[str, Any]


@dataclass(frozen=True)
class Provenance(_Told):
    """How scores are made.

    Attributes:
        bundle: name of the bundle.
        bundle_version: its version.
        intended_use: what it is meant for, a sentence or two.
        key: of the settings.
        settings: everything that a score depends on but for seed and rounding.
        seed: of all noise.
        preset: name of the bundle's settings, if it has several.
        device: where it was computed.
        precision: arithmetic of the network.
    """

    bundle: str
    bundle_version: str
    intended_use: str
    key: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    preset: str | None = None
    device: str = "cpu"
    precision: str = "float32"


@dataclass(frozen=True)
class Summary(_Told):
    """What was found in a scan.

    Attributes:
        name: of the case, a pseudonym unless names were to be kept.
        source: the scan.
        region: what was looked at; None is all of it.
        unit: of the heat map, and of all scores.
        scan_score: maximum of the heat map on the prior's grid.
        p_value: chance that a healthy person's scan scores as high.
        worst: where the heat map is highest.
        slice_scores: maximum of the heat map in each slice along the third voxel axis.
        volume_ml: of what is labelled, ml, by the label's name; what is strongly suspicious counts as suspicious too.
        candidate_count: number of all candidates.
        candidates: the first of them, the highest first.
        p_and_q: what p and q of a candidate mean.
        thresholds: what the scan is compared with.
        remarks: what a reader has to know, in sentences.
        provenance: how the score was made.
        versions: of this package and of the libraries that a result depends on, by name.
        timings_s: what reading, scoring and writing took, s.
        notice: what the result is not for.
        schema: name and version of this layout; the number rises when a program that reads it would have to change.
    """

    name: str
    source: Source
    region: LookedAt | None
    unit: str
    scan_score: float
    p_value: float
    worst: Worst
    slice_scores: tuple[float, ...]
    volume_ml: Mapping[str, float]
    candidate_count: int
    candidates: tuple[Candidate, ...]
    p_and_q: str
    thresholds: Thresholds
    remarks: tuple[str, ...]
    provenance: Provenance
    versions: Mapping[str, str]
    timings_s: Mapping[str, float] = field(default_factory=dict)
    notice: str = NOTICE
    schema: Literal["klip_monai/summary/1"] = "klip_monai/summary/1"


@dataclass(frozen=True)
class RawData(_Told):
    """A sinogram.

    Attributes:
        format: "sinogram".
        views: their number.
        detectors: elements of the detector.
        line_integrals: lowest and highest.
        attenuation: what image values stand for.
        noise: of the measurement.
        noise_std: its mean standard deviation, in line integrals.
        misfit: share of the line integrals that the least-squares image and the posterior sample leave unexplained.
    """

    format: str
    views: int
    detectors: int
    line_integrals: tuple[float, float]
    attenuation: Mapping[str, Any]
    noise: Mapping[str, Any]
    noise_std: float
    misfit: Mapping[str, float]


@dataclass(frozen=True)
class SinogramSummary(_Told):
    """What was found in a raw sinogram; there is no ID reference of it, and so neither p nor thresholds.

    Attributes:
        name: of the case.
        source: the sinogram.
        affine_ras_mm: (4, 4) voxel index of the volumes (W, H, 1) to RAS mm around the rotation axis.
        reconstruction_unit: of the reconstruction.
        unit: of the heat map and of the score.
        slice_score: maximum of the heat map.
        worst: where it is.
        remarks: what a reader has to know, in sentences.
        provenance: how the score was made.
        versions: of this package and of the libraries that a result depends on, by name.
        p_value: None.
        thresholds: None.
        notice: what the result is not for.
        schema: name and version of this layout; the number rises when a program that reads it would have to change.
    """

    name: str
    source: RawData
    affine_ras_mm: tuple[tuple[float, ...], ...]
    reconstruction_unit: str
    unit: str
    slice_score: float
    worst: Worst
    remarks: tuple[str, ...]
    provenance: Provenance
    versions: Mapping[str, str]
    p_value: None = None
    thresholds: None = None
    notice: str = NOTICE
    schema: Literal["klip_monai/sinogram-summary/1"] = "klip_monai/sinogram-summary/1"


def candidate_in_words(candidate: Candidate) -> str:
    """Where a candidate is, how large, and how likely by chance; its heat map values are left out."""
    place = f"slice {candidate.slice}, {short_ras_text(candidate.peak_ras_mm)} mm"
    q = "" if candidate.q is None else f", q {candidate.q:.2g}"
    return f"{place}, {candidate.volume_ml:.1f} ml, p {candidate.p:.3f}{q}"


def _plain(value: Any) -> Any:
    if isinstance(value, _Told | Candidate):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
