"""What a screening would do, before it does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from klip_monai.screening.entry import State
from klip_monai.screening.found import FoundSeries
from klip_monai.screening.ledger import Ledger
from klip_monai.screening.reasons import group_of_skipped

SLICE_SECONDS = {"cuda": 0.1, "cpu": 2.0}
"""Rough time of a slice with a shipped bundle, s, until a ledger has measured it."""


@dataclass
class Plan:
    """What is to do.

    Attributes:
        done: series by the state that they are in and will stay in; running ones are those of other processes.
        skipped: series that are left out, by what the reasons have in common.
        series: series to score.
        slices: their slices, as far as the archive says.
        slice_seconds: measured time of a slice, s; None if this ledger has not scored any.
    """

    done: Counter[State] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    series: int = 0
    slices: int = 0
    slice_seconds: float | None = None

    @property
    def total(self) -> int:
        """Series of the archive."""
        return self.series + sum(self.done.values()) + sum(self.skipped.values())

    def counts(self) -> Counter[State]:
        """Series by state, as if the series left out had been recorded."""
        return self.done + Counter({State.skipped: sum(self.skipped.values())})

    def seconds(self, *, device: str, workers: int = 1) -> float:
        """Estimate of the time to score all, s, with so many workers of equal speed."""
        return self.slices * (self.slice_seconds or SLICE_SECONDS[device]) / workers


def make_plan(series: Iterable[FoundSeries], ledger: Ledger) -> Plan:
    """Look at each series of an archive once."""
    plan = Plan(slice_seconds=ledger.seconds_per_slice())
    for found in series:
        standing, state = ledger.standing(found.name, n_slices=found.n_slices, mask=found.mask)
        if standing != "ours" and state is not None:
            plan.done[state] += 1
        elif found.reason:
            plan.skipped[group_of_skipped(found.reason)] += 1
        else:
            plan.series += 1
            plan.slices += found.n_slices
    return plan
