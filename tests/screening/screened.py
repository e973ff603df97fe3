"""A synthetic screening: an archive with many healthy scans, some anomalous ones, and the usual trouble."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from klip_monai.scoring import ExpectedDensity, IDReference
from klip_monai.screening.entry import Entry, State

PROVENANCE = {
    "bundle": "klip_ct_abdomen",
    "bundle_version": "0.3.0",
    "intended_use": "Abdominal CT, portal venous phase, adults.",
    "key": "311c8b521b927556",
    "settings": {"sampler": {"name": "predictor_corrector", "steps": 20, "samples": 4}, "window": [0.27, 0.045]},
    "seed": 0,
    "device": "cuda",
}
_PROTOCOLS = ("Abdomen portal venous 5.0", "Thorax abdomen 3.0", "Liver late phase 2.0", "Abdomen 1.5 soft tissue", "")
_REASONS = (
    (State.refused, "missing slices", "slices 31 to 33 of {n} are missing; send the whole series"),
    (State.refused, "gantry tilt", "the gantry is tilted by {n} degrees, expected a straight stack"),
    (State.refused, "localizer", "got {n} localizer pictures, expected axial slices"),
    (State.refused, "not CT", "got modality MR, expected CT"),
    (State.failed, "out of memory", "ran out of memory twice with {n} slices"),
    (State.skipped, "duplicate", "same pixels as a series screened before"),
    (State.skipped, "too few slices", "has {n} slices, expected at least 10"),
)


def reference(scans: int = 99, *, seed: int = 1) -> IDReference:
    """Healthy scans scoring about 0.2."""
    scores = np.exp(np.random.default_rng(seed).normal(-1.6, 0.16, scans))
    curve = ExpectedDensity(4.0, (0.1,), (0.04,), 0.04)
    return IDReference(
        "311c8b521b927556", curve, tuple(sorted(map(float, scores))), 0.15, 0.3, 40, "healthy livers of two hospitals"
    )


def screened(count: int, *, healthy: IDReference, anomalous: float = 0.08, seed: int = 0) -> Iterator[Entry]:
    """Entries, one in eight of them not scored."""
    rng = np.random.default_rng(seed)
    clock = 1_790_000_000.0
    for number in range(count):
        name = f"ct-{rng.integers(16**12):012x}"
        n_slices, description = int(rng.integers(30, 90)), _PROTOCOLS[rng.integers(len(_PROTOCOLS))]
        clock += 9.0
        if rng.random() < 1 / 8:
            state, group, reason = _REASONS[min(int(rng.exponential(1.8)), len(_REASONS) - 1)]
            yield Entry(name, state, reason.format(n=rng.integers(2, 200)), group, description, n_slices, updated=clock)
            continue
        sick = rng.random() < anomalous
        score = float(np.exp(rng.normal(-1.6, 0.16) + (rng.exponential(0.7) if sick else 0.0)))
        volume = {"Suspicious": float(rng.exponential(20.0 if sick else 0.3))}
        volume["Strongly suspicious"] = volume["Suspicious"] * float(rng.random()) if sick else 0.0
        remark = f"p-value: got {n_slices} slices, the reference's healthy scans have 40, so p is too small."
        yield Entry(
            name,
            State.scored,
            description=description,
            n_slices=n_slices,
            scan_score=score,
            p_value=healthy.p_value(score),
            remarks=(remark,) if n_slices > 60 else (),
            volume_ml=volume,
            worst_slice=int(rng.integers(n_slices)),
            n_candidates=int(rng.poisson(6.0 if sick else 1.0)),
            case_dir=name,
            read_seconds=1.2,
            score_seconds=0.25 * n_slices,
            write_seconds=2.1,
            attempts=1,
            worker=f"gpu-{number % 4}",
            updated=clock,
        )
