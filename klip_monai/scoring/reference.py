"""ID reference: what healthy scans score, and the calibration, p-values and thresholds that follow from it."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klip_monai.errors import BundleError
from klip_monai.scoring.context import ContextNull
from klip_monai.scoring.expected import RARE, ExpectedDensity, Values, leave_one_out
from klip_monai.scoring.labels import MIN_ML, islands


def settings_key(settings: Mapping[str, Any]) -> str:
    """Hash of everything a threshold belongs to (weights, sampler, operator, ...), given as JSON-able values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Places:
    """Where the in-body pixels of a healthy scan lie.

    Attributes:
        inside: which pixels they are, bool (Z, H, W).
        voxel_ml: volume of a pixel of a slice, ml.
    """

    inside: NDArray[np.bool_]
    voxel_ml: float

    def peaks(self, values: Values, suspicious: float) -> tuple[float, ...]:
        """Highest value of each candidate, descending; ``values`` (N,) of the pixels, nats per pixel."""
        heatmap = np.zeros(self.inside.shape, np.float32)
        heatmap[self.inside] = values
        parts = islands((heatmap >= suspicious).view(np.uint8), voxel_ml=self.voxel_ml)
        found = [float(heatmap[box][inside].max()) for _, box, ml, inside in parts if ml >= MIN_ML]
        return tuple(sorted(found, reverse=True))


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
        slices: median number of slices of the reference scans (the maximum over more slices is higher).
        description: what the healthy scans were.
        patients: number of the person that each of ``scan_scores`` is of; empty if each is of another.
        peaks: of each healthy scan, in the order of ``scan_scores``, the highest value of each of its candidates, see
            :func:`klip_monai.scoring.find_candidates`, nats per pixel; empty if they are not known.

    Raises:
        ValueError: if ``peaks`` are neither of all scans nor of none.
    """

    key: str
    expected: ExpectedDensity | ContextNull
    scan_scores: tuple[float, ...]
    suspicious: float
    strong: float
    slices: int
    description: str
    patients: tuple[int, ...] = ()
    peaks: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.peaks and len(self.peaks) != len(self.scan_scores):
            raise ValueError(
                f"peaks: got those of {len(self.peaks)} scans, expected {len(self.scan_scores)}, one tuple for each of "
                "scan_scores, or none"
            )

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
        places: Sequence[Places] | None = None,
    ) -> IDReference:
        """Make a reference whose maps are calibrated by local contrast, each scan's by the other people's.

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
            places: where the pixels of each scan lie, for its candidates; None if that is not known.

        Raises:
            InputError: for scans of fewer than two people, or too few pixels.
        """
        patients = list(range(len(density)) if patients is None else patients)
        expected, calibrated = leave_one_out(
            density, contrast, contrast_px=contrast_px, strength=strength, patients=patients
        )
        return cls.from_calibrated(
            calibrated,
            expected=expected,
            settings=settings,
            slices=slices,
            description=description,
            patients=patients,
            places=places,
        )

    @classmethod
    def from_calibrated(
        cls,
        calibrated: Sequence[Values],
        *,
        expected: ExpectedDensity | ContextNull,
        settings: Mapping[str, Any],
        slices: int,
        description: str,
        patients: Sequence[int],
        places: Sequence[Places] | None = None,
    ) -> IDReference:
        """Make a reference of maps that their own people had no part in calibrating.

        Args:
            calibrated: for each healthy scan the heat map of its in-body pixels, (N,), nats per pixel.
            expected: what calibrates the maps of other scans.
            settings: what the densities were made with.
            slices: slices of each scan.
            description: what the scans were.
            patients: number of the person that each scan is of.
            places: where the pixels of each scan lie, for its candidates; None if that is not known.
        """
        maxima = [float(values.max()) for values in calibrated]
        order = sorted(range(len(maxima)), key=lambda scan: (maxima[scan], patients[scan]))
        scores, of = tuple(maxima[scan] for scan in order), tuple(patients[scan] for scan in order)
        suspicious = float(np.quantile(np.concatenate(calibrated), RARE))
        strong = max(float(np.quantile(scores, 0.95, method="higher")), suspicious)
        found = () if places is None else tuple(places[scan].peaks(calibrated[scan], suspicious) for scan in order)
        return cls(settings_key(settings), expected, scores, suspicious, strong, slices, description, of, found)

    @classmethod
    def load(cls, path: str | Path, *, scores_only: bool = False) -> IDReference:
        """Read a reference from JSON, and the network of its null from beside it.

        Args:
            path: what `save` wrote.
            scores_only: leave the network out: scores, p-values and thresholds do not need it, heat maps do.

        Raises:
            BundleError: if the file is missing or not a reference.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text())
            expected = _expected(content["expected"], None if scores_only else _network_of(path))
            lists = {name: tuple(content.get(name, ())) for name in ("scan_scores", "patients")}
            peaks = tuple(tuple(scan) for scan in content.get("peaks", ()))
            return cls(**{**content, **lists, "expected": expected, "peaks": peaks})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"ID reference {path}: cannot be read ({error}); make it anew with `klip-monai calibrate`"
            ) from error

    def save(self, path: str | Path, *, scores_only: bool = False) -> None:
        """Write the reference as JSON, and beside it, unless ``scores_only``, the network of its null if it has one."""
        path = Path(path)
        if isinstance(self.expected, ContextNull) and not scores_only:
            self.expected.save(_network_of(path))
        path.write_text(json.dumps(self.describe(), indent=2) + "\n")

    def describe(self) -> dict[str, Any]:
        """All of it, JSON-able; of the network of its null a hash."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"expected": self.expected.describe()}

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

    def q_values(self, peaks: Sequence[float]) -> list[float] | None:
        """False discovery rates of the candidates of a scan, in the manner of target-decoy competition.

        E0(t), the number of candidates of a healthy scan that reach t, counted as (1 + the mean number in a person's
        scans, summed over the reference's people) / (1 + number of people), over the number of this scan's that do, is
        the share of false ones among these. A candidate's q is the least such share, at most 1, over all thresholds
        that it reaches (Storey 2003; decoys: Elias, Gygi 2007, doi:10.1038/nmeth1019). It is an estimate, and with few
        people a little too small: at q = 0.2 a share of 0.23 with 4 people and 0.21 with 40, in simulation.

        Args:
            peaks: highest value of each candidate, nats per pixel, in any order.

        Returns:
            q of each, in the order of ``peaks``; None if the reference does not hold candidates of healthy scans.
        """
        if not self.peaks:
            return None
        scans = [(share, sorted(found)) for share, found in zip(self._shares, self.peaks, strict=True)]
        of_healthy, own, people = sorted(chain.from_iterable(self.peaks)), sorted(peaks), self.people
        least, q_of, below, expected = 1.0, {}, -1, 1.0
        for t in sorted(set(peaks)):  # from one peak up to the next the share falls with t, so these are all it takes
            if (
                now_below := bisect_left(of_healthy, t)
            ) != below:  # else as many healthy ones reach t as the one before
                below = now_below
                healthy = math.fsum(share * (len(found) - bisect_left(found, t)) for share, found in scans)
                expected = (1 + healthy) / (1 + people)
            least = min(least, expected / (len(own) - bisect_left(own, t)))
            q_of[t] = least
        return [q_of[peak] for peak in peaks]

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
        return list(zip(self.scan_scores, self._shares, strict=True))

    @property
    def _shares(self) -> list[float]:
        """What each scan is of all scans of its person."""
        scans = Counter(self.patients)
        return [1 / scans[patient] for patient in self.patients] or [1.0] * len(self.scan_scores)


def _network_of(path: Path) -> Path:
    """Where the network of a reference's null lies; no file of another kind has such a name."""
    return path.with_name(f"{path.stem}.null.safetensors")


def _expected(content: Mapping[str, Any], network: Path | None) -> ExpectedDensity | ContextNull:
    """What `describe` of a null gave."""
    if content.get("null") == "context":
        return ContextNull.load(network, content)
    return ExpectedDensity.of(content)
