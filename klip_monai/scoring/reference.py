"""ID reference: what healthy scans score, and the calibration, p-values and thresholds that follow from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klip_monai.errors import BundleError
from klip_monai.scoring.expected import RARE, ExpectedDensity, Values, leave_one_out


def settings_key(settings: Mapping[str, Any]) -> str:
    """Hash of everything a threshold belongs to (weights, sampler, operator, ...), given as JSON-able values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class IDReference:
    """Scores of healthy scans under one setting.

    Attributes:
        key: :func:`settings_key` of the setting the scores were made with.
        expected: mean density of healthy tissue by local contrast; calibrates heat maps. Scores and thresholds are of
            calibrated maps, each healthy scan's calibrated by the others.
        scan_scores: highest in-body heat map value of each healthy scan, nats per pixel, ascending.
        suspicious: threshold of label 1, nats per pixel: the 99.9 % quantile of healthy in-body pixels.
        strong: threshold of label 2, nats per pixel: the 95 % quantile of ``scan_scores``.
        slices: number of slices of each reference scan (the maximum over more slices is higher).
        description: what the healthy scans were.
        patients: number of the person that each of ``scan_scores`` is of; empty if each is of another.
    """

    key: str
    expected: ExpectedDensity
    scan_scores: tuple[float, ...]
    suspicious: float
    strong: float
    slices: int
    description: str
    patients: tuple[int, ...] = ()

    @classmethod
    def from_scans(
        cls,
        density: Sequence[Values],
        contrast: Sequence[Values],
        *,
        contrast_px: float,
        strength: float = 1.0,
        settings: Mapping[str, Any],
        slices: int,
        description: str,
        patients: Sequence[int] | None = None,
    ) -> IDReference:
        """Make a reference.

        Args:
            density: for each healthy scan its in-body smoothed density, (N, 1), nats per pixel; or (N, 2) with the
                one of all spatial frequencies second.
            contrast: for each healthy scan the local contrast of the same pixels, (N,).
            contrast_px: the neighbourhood that the contrast was taken in, pixels.
            strength: how strongly maps are calibrated, 0 to 1, see :class:`ExpectedDensity`.
            settings: what the densities were made with.
            slices: slices of each scan.
            description: what the scans were.
            patients: number of the person that each scan is of; None if each is of another.

        Raises:
            InputError: for scans of fewer than two people, or too few pixels.
        """
        patients = range(len(density)) if patients is None else patients
        expected, calibrated = leave_one_out(
            density, contrast, contrast_px=contrast_px, strength=strength, patients=patients
        )
        scores, of = zip(*sorted(zip((float(v.max()) for v in calibrated), patients, strict=True)), strict=True)
        suspicious = float(np.quantile(np.concatenate(calibrated), RARE))
        strong = max(float(np.quantile(scores, 0.95, method="higher")), suspicious)
        return cls(settings_key(settings), expected, scores, suspicious, strong, slices, description, of)

    @classmethod
    def load(cls, path: str | Path) -> IDReference:
        """Read a reference from JSON.

        Raises:
            BundleError: if the file is missing or not a reference.
        """
        try:
            content = json.loads(Path(path).read_text())
            curve = content["expected"]
            expected = ExpectedDensity(
                **{**curve, "contrast": tuple(curve["contrast"]), "density": tuple(curve["density"])}
            )
            lists = {name: tuple(content.get(name, ())) for name in ("scan_scores", "patients")}
            return cls(**{**content, **lists, "expected": expected})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"ID reference {path}: cannot be read ({error}); make it anew with `klip-monai calibrate`"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the reference as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def matches(self, settings: Mapping[str, Any]) -> bool:
        """Whether the reference was made with exactly these settings; if not, its thresholds mean nothing."""
        return self.key == settings_key(settings)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a scan score: the chance that a healthy scan of a new person scores at least as high.

        (1 + the share of their scans that scores at least ``score``, summed over the reference's people) / (1 + number
        of people): valid for exchangeable people, however alike the scans of each are (Lee, Barber, Willett 2023,
        arXiv 2306.06342). With a scan each it is the usual one (Vovk et al. 2005). Never below :attr:`least_p`.
        """
        return (1 + math.fsum(w for s, w in self.weighted_scores if s >= score)) / (1 + self.people)

    @property
    def people(self) -> int:
        """How many people the healthy scans are of."""
        return len(set(self.patients)) or len(self.scan_scores)

    @property
    def in_words(self) -> str:
        """How many healthy scans, and of how many people unless each is of another."""
        scans = f"{len(self.scan_scores)} healthy scans"
        return scans if self.people == len(self.scan_scores) else f"{scans} of {self.people} people"

    @property
    def least_p(self) -> float:
        """The p-value of a scan that scores above all healthy ones, 1 / (1 + number of people)."""
        return 1 / (1 + self.people)

    @property
    def weighted_scores(self) -> list[tuple[float, float]]:
        """Each of ``scan_scores`` with its share in the scans of its person."""
        scans = Counter(self.patients)
        shares = [1 / scans[patient] for patient in self.patients] or [1.0] * len(self.scan_scores)
        return list(zip(self.scan_scores, shares, strict=True))
