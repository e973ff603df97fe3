"""How a screening goes: counts, rates and the time that is left."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal, Protocol

from klip_monai.screening.entry import Entry, State

Kind = Literal["begun", "started", "done", "retried", "tick", "ended"]
_RECENT = 50


@dataclass
class Tally:
    """Figures of a run that is under way.

    Attributes:
        total: series of the archive that are wanted or not.
        counts: series of it in each state; running ones are those of this process.
        handled: series that this process has brought to an end.
        slices: slices of the scans scored by this process.
        seconds: their time by phase, s.
        begun: when the run began, monotonic clock, s.
    """

    total: int = 0
    counts: Counter[State] = field(default_factory=Counter)
    handled: int = 0
    slices: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, entry: Entry) -> None:
        """Count a series that has come to an end."""
        self.counts[entry.state] += 1
        self.handled += 1
        self._recent.append(time.monotonic())
        if entry.state is State.scored:
            self.slices += entry.n_slices
            phases = (("read", entry.read_seconds), ("score", entry.score_seconds), ("write", entry.write_seconds))
            self.seconds.update(dict(phases))

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.begun

    @property
    def rate(self) -> float:
        """Series a second, of the latest ones; 0 before the first."""
        if not self._recent:
            return 0.0
        since = self.begun if len(self._recent) < _RECENT else self._recent[0]
        return len(self._recent) / max(time.monotonic() - since, 1e-9)

    @property
    def left(self) -> int:
        """Series to do."""
        done = sum(n for state, n in self.counts.items() if state not in (State.pending, State.running))
        return max(0, self.total - done)

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time to the end, s; None before the first series."""
        return self.left / self.rate if self.rate else None


class Listener(Protocol):
    """Is told of everything that happens in a run."""

    def __call__(self, kind: Kind, tally: Tally, entry: Entry | None = None) -> None:
        """Take note; ``entry`` is the series concerned, if it is one."""
        ...
