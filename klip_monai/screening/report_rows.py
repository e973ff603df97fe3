"""What the screening report keeps of each series, and all of it as compact JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import stats

from klip_monai.scoring import LABEL_NAMES
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.report_figures import busy_hours

_FINAL = (State.refused, State.failed, State.skipped)
_NOTE_LENGTH = 300  # characters; bounds the file where every series of a large archive is refused


class Row(NamedTuple):
    """One series of the table; the fields are the columns of the JSON."""

    name: str
    state: str
    score: float | None
    p: float | None
    q: float | None
    slices: int
    worst: int | None
    suspicious: float | None
    strong: float | None
    candidates: int | None
    note: str
    description: str
    group: str
    folder: str


@dataclass
class Work:
    """Where the time went.

    Attributes:
        seconds: of scored scans, by read, score and write.
        slices: of scored scans.
        hours: in which at least one worker was busy.
        workers: how many had a scan.
        start, end: seconds since 1970 of the first start and the last end; 0 if unknown.
    """

    seconds: dict[str, float]
    slices: int
    hours: float
    workers: int
    start: float
    end: float


@dataclass
class Rows:
    """All series of a screening: the scored first, the highest score at the top, then the others by state and group."""

    rows: list[Row]
    states: Counter[State]
    groups: Counter[tuple[str, str]]
    work: Work

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Rows:
        """Read the entries once, keeping of each what the report shows."""
        rows: list[Row] = []
        states: Counter[State] = Counter()
        groups: Counter[tuple[str, str]] = Counter()
        seconds, slices = {"read": 0.0, "score": 0.0, "write": 0.0}, 0
        ends, spans, workers = [], [], set()
        for entry in entries:
            row = _row(entry)
            rows.append(row)
            states[entry.state] += 1
            parts = (entry.read_seconds, entry.score_seconds, entry.write_seconds)
            if entry.updated and sum(parts) > 0:
                ends.append(entry.updated)
                spans.append(sum(parts))
            if entry.worker:
                workers.add(entry.worker)
            if entry.state is State.scored:
                slices += entry.n_slices
                seconds = {name: total + part for (name, total), part in zip(seconds.items(), parts, strict=True)}
            elif row.group:
                groups[row.state, row.group] += 1
        order = list(State)
        rows.sort(key=lambda row: (row.score is None, -(row.score or 0.0), order.index(State(row.state)), row.name))
        start = min((end - span for end, span in zip(ends, spans, strict=True)), default=0.0)
        work = Work(seconds, slices, busy_hours(ends, spans), len(workers), start, max(ends, default=0.0))
        return cls(_with_q(rows), states, groups, work)

    @property
    def scored(self) -> list[Row]:
        """The scored series, the highest score first."""
        return self.rows[: sum(row.score is not None for row in self.rows)]

    def by_count(self) -> list[tuple[tuple[str, str], int]]:
        """State and group of the series that were not scored, and how many; the largest group first."""
        return sorted(self.groups.items(), key=lambda item: (-item[1], item[0]))

    def of_group(self, state: str, group: str, count: int) -> list[Row]:
        """The first series of a group that were not scored."""
        found = (row for row in self.rows if row.state == state and row.group == group)
        return [row for row, _ in zip(found, range(count), strict=False)]

    def columns(self) -> dict[str, Any]:
        """The columns by name, JSON-able: text that rows share stands once in ``words``, by number elsewhere."""
        words: dict[str, int] = {"": 0}
        shared = ("state", "note", "description", "group")
        columns: dict[str, Any] = {name: [getattr(row, name) for row in self.rows] for name in Row._fields}
        for name in shared:
            columns[name] = [words.setdefault(text, len(words)) for text in columns[name]]
        columns["folder"] = [0 if row.folder == row.name else row.folder for row in self.rows]
        return columns | {"words": list(words)}


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _row(entry: Entry) -> Row:
    done = entry.state is State.scored
    volumes = [entry.volume_ml.get(LABEL_NAMES[label], 0.0) if done else None for label in (1, 2)]
    return Row(
        name=entry.name,
        state=entry.state.value,
        score=_round(entry.scan_score) if done else None,
        p=_round(entry.p_value) if done else None,
        q=None,
        slices=entry.n_slices,
        worst=entry.worst_slice if done else None,
        suspicious=_round(volumes[0]),
        strong=_round(volumes[1]),
        candidates=entry.n_candidates if done else None,
        note=textwrap.shorten(" ".join(entry.remarks) if done else entry.reason, _NOTE_LENGTH, placeholder=" …"),
        description=textwrap.shorten(entry.description, _NOTE_LENGTH, placeholder=" …"),
        group="" if done else entry.group or ("other" if entry.state in _FINAL else ""),
        folder=entry.case_dir if done else "",
    )


def _round(value: float | None) -> float | None:
    """Six digits are more than the page shows; what is not finite is unknown."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _with_q(rows: list[Row]) -> list[Row]:
    """Fill in the Benjamini-Hochberg q-values of the scored rows."""
    with_p = [number for number, row in enumerate(rows) if row.p is not None]
    if with_p:
        adjusted = stats.false_discovery_control([rows[number].p for number in with_p], method="bh")
        for number, q in zip(with_p, adjusted, strict=True):
            rows[number] = rows[number]._replace(q=_round(float(q)))
    return rows
