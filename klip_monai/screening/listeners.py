"""Who follows a screening besides the person before it: log collectors and Prometheus."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from klip_monai.screening.entry import Entry, State
from klip_monai.screening.tally import Kind, Tally

_EVERY = 5.0  # s
_LOGGED = ("name", "state", "reason", "group", "n_slices", "scan_score", "p_value", "attempts", "worker")


class JsonLog:
    """One JSON object a line for each event, without anything of the patient.

    Keys: ``time`` (s since 1970), ``event`` ("begun", "started", "retried", "done", "ended"), what is known of the
    series, and at the ends the counts by state.

    Args:
        write: takes a line with its end, such as the ``write`` of a file opened with line buffering.
    """

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write

    def __call__(self, kind: Kind, tally: Tally, entry: Entry | None = None) -> None:
        """Write a line."""
        if kind == "tick":
            return
        record: dict[str, Any] = {"time": round(time.time(), 3), "event": kind}
        if entry is not None:
            record |= {key: getattr(entry, key) for key in _LOGGED}
            phases = ("read", "score", "write")
            record |= {f"{phase}_seconds": round(getattr(entry, f"{phase}_seconds"), 3) for phase in phases}
        else:
            record |= {"total": tally.total, "counts": {state.value: n for state, n in sorted(tally.counts.items())}}
        self._write(json.dumps(record) + "\n")


class MetricsFile:
    """A text file for Prometheus' node exporter (textfile collector), replaced every few seconds.

    Args:
        path: the file, whose name has to end in .prom for the collector.
        every: seconds between updates.
    """

    def __init__(self, path: Path, *, every: float = _EVERY) -> None:
        self.path, self._every, self._last = path, every, -every

    def __call__(self, kind: Kind, tally: Tally, entry: Entry | None = None) -> None:
        """Write the file if it is time."""
        now = time.monotonic()
        if kind in ("begun", "ended") or now - self._last >= self._every:
            self._last = now
            staged = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            staged.write_text(exposition(tally), encoding="utf-8")
            os.replace(staged, self.path)


def exposition(tally: Tally) -> str:
    """Figures in Prometheus' text format, version 0.0.4."""
    states = {f'state="{state.value}"': tally.counts[state] for state in State if state is not State.pending}
    phases = {f'phase="{phase}"': tally.seconds[phase] for phase in ("read", "score", "write")}
    metrics: list[tuple[str, str, str, dict[str, float]]] = [
        ("klip_screen_series", "gauge", "Series of the archive by state.", dict(states)),
        ("klip_screen_total_series", "gauge", "Series of the archive.", {"": tally.total}),
        ("klip_screen_left_series", "gauge", "Series still to do.", {"": tally.left}),
        ("klip_screen_slices_total", "counter", "Slices scored by this process.", {"": tally.slices}),
        ("klip_screen_seconds_total", "counter", "Time of scored series by phase, s.", dict(phases)),
        ("klip_screen_series_per_second", "gauge", "Rate of the latest series.", {"": tally.rate}),
        ("klip_screen_left_seconds", "gauge", "Estimate of the time left, s.", {"": tally.seconds_left or 0.0}),
        ("klip_screen_updated_seconds", "gauge", "Time of this update, s since 1970.", {"": time.time()}),
    ]
    lines = []
    for name, kind, text, samples in metrics:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{f'{{{label}}}' if label else ''} {value:.10g}" for label, value in samples.items()]
    return "\n".join(lines) + "\n"
