"""What is known about one series of an archive that is being screened."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class State(str, Enum):
    """Where a series stands; every state but the first two is final until it is asked for again."""

    pending = "pending"
    running = "running"
    scored = "scored"
    refused = "refused"
    failed = "failed"
    skipped = "skipped"


@dataclass(frozen=True)
class Entry:
    """One series, without anything that tells who the patient is.

    Attributes:
        name: pseudonym made from the series UID, the name of its case; unique in a screening.
        state: where it stands. refused: its data cannot be scored exactly, and the reader said why; failed: it crashed,
            hung or ran out of memory twice; skipped: a filter or a duplicate.
        reason: one sentence for refused, failed and skipped; else empty.
        group: what the reason has in common with others, a few words without numbers, e.g. "missing slices".
        description: SeriesDescription, if it was asked for; else empty.
        n_slices: number of slices, once scored that of the axial ones that were; 0 if unknown.
        scan_score: highest density in the body, unit of the ID reference; None unless scored.
        p_value: share of healthy scans that score as high; None unless scored.
        remarks: what a reader of the p-value has to know.
        volume_ml: ml by label name.
        worst_slice: index along the volume's third axis of the highest density; None unless scored.
        top_slices: the five highest slices, highest first.
        n_candidates: number of connected suspicious places; None unless scored.
        first_ras_mm: where the first of them, the one with the highest peak, has it, RAS mm; empty if there is none.
        first_ml: its volume, ml; None if there is none.
        case_dir: folder of the case's files, relative to the output folder; empty unless scored.
        precision: arithmetic of the network, as in "float32"; empty unless scored.
        read_seconds: time to read, s.
        score_seconds: time to score, s.
        write_seconds: time to write, s.
        attempts: how often it was started.
        worker: which worker had it last.
        updated: seconds since 1970, UTC.
    """

    name: str
    state: State = State.pending
    reason: str = ""
    group: str = ""
    description: str = ""
    n_slices: int = 0
    scan_score: float | None = None
    p_value: float | None = None
    remarks: tuple[str, ...] = ()
    volume_ml: dict[str, float] = field(default_factory=dict)
    worst_slice: int | None = None
    top_slices: tuple[int, ...] = ()
    n_candidates: int | None = None
    first_ras_mm: tuple[float, ...] = ()
    first_ml: float | None = None
    case_dir: str = ""
    precision: str = ""
    read_seconds: float = 0.0
    score_seconds: float = 0.0
    write_seconds: float = 0.0
    attempts: int = 0
    worker: str = ""
    updated: float = 0.0
