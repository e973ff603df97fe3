"""Figures of the screening report: the score to stop at, scores against healthy scans, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from klip_monai.errors import InputError
from klip_monai.scoring import IDReference

_BARS = 44
_TAIL = 4.0  # times the highest healthy score: where the axis ends, with all that is higher in its last bar
_LOG_FROM = 4.0  # ratio of the highest to the lowest score from which the axis is logarithmic


@dataclass(frozen=True)
class Threshold:
    """The score beyond which a scan is called at a rate of false alarms.

    Attributes:
        score: scans that score higher are called, unit of the ID reference; infinite where the reference has too few
            healthy scans for a rate so low.
        rate: chance that a healthy scan is called, at most the rate asked for.
    """

    score: float
    rate: float

    @classmethod
    def of(cls, reference: IDReference, false_alarm_rate: float) -> Threshold:
        """The lowest threshold beyond which every scan has a p-value of at most ``false_alarm_rate``.

        It is the score of a healthy scan, and a healthy scan of a new person is beyond it with the chance that is the
        p-value just above it; see :meth:`IDReference.p_value`.

        Raises:
            InputError: for a rate that is not between 0 and 1.
        """
        if not 0 < false_alarm_rate < 1:
            raise InputError(f"false_alarm_rate: got {false_alarm_rate}, expected a number between 0 and 1, as 0.05")
        threshold = cls(math.inf, 0.0)
        for score in sorted(reference.scan_scores, reverse=True):
            rate = reference.p_value(math.nextafter(score, math.inf))
            if rate > false_alarm_rate + 1e-9:
                break
            threshold = cls(score, rate)
        return threshold


@dataclass(frozen=True)
class Axis:
    """The axis of the scores, 0 to 100 per cent from left to right.

    Attributes:
        low, high: scores at its ends.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    log: bool

    def place(self, score: float) -> float:
        """Where a score lies, per cent of the width."""
        low, score, high = (math.log(value) if self.log else value for value in (self.low, score, self.high))
        return 100 * (score - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round scores along it: place in per cent, and text."""
        subs = (1.0, 2.0, 5.0) if self.high > 30 * self.low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        locator = LogLocator(subs=subs) if self.log else MaxNLocator(6)
        values = [float(value) for value in locator.tick_values(self.low, self.high)]
        return [(self.place(value), f"{value:.6g}") for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Bar:
    """One step of a histogram: its left end and width in per cent of the figure, height 0 to 1."""

    left: float
    width: float
    height: float
    beyond: bool


@dataclass(frozen=True)
class Histogram:
    """How the scores of an archive are spread, against those of healthy scans, each as shares of its scans.

    Attributes:
        axis: of the scores.
        archive: bars of the archive's scans; none straddles the threshold.
        healthy: bars of the healthy scans, same places.
        above: number of scans of the archive beyond the axis; the last bar holds them.
        highest: share of the archive's or of the healthy scans that a bar of height 1 stands for.
    """

    axis: Axis
    archive: list[Bar]
    healthy: list[Bar]
    above: int
    highest: float

    @classmethod
    def of(cls, scores: Sequence[float], healthy: Sequence[float], threshold: float) -> Histogram:
        """Histogram of scores in bins that have an edge at the threshold, where there is one."""
        every = [*scores, *healthy]
        low, highest_healthy = min(every), max(healthy)
        high = min(max(every), _TAIL * highest_healthy) if highest_healthy > 0 else max(every)
        above = sum(score > high for score in scores)
        log = low > 0 and high > _LOG_FROM * low

        def scaled(values: Sequence[float]) -> NDArray[np.float64]:
            inside = np.minimum(np.asarray(values, dtype=np.float64), high)
            return np.log(inside) if log else inside

        start, stop = scaled([low, high])
        step = max(float(stop - start) / _BARS, 1e-3 * max(abs(float(start)), 1e-3))
        anchor = float(scaled([threshold])[0]) if math.isfinite(threshold) else float(start)
        # Scores at the threshold are not beyond it: bins are open on the left.
        first, last = math.ceil((start - anchor) / step) - 2, math.ceil((stop - anchor) / step) + 1
        edges = anchor + step * np.arange(first, last + 1)
        ends = np.exp(edges) if log else edges
        axis = Axis(float(ends[0]), float(ends[-1]), log)
        shares = [_shares(scaled(values), anchor, step, first, last) for values in (scores, healthy)]
        highest = max(float(share.max(initial=0.0)) for share in shares) or 1.0
        width = 100 / len(shares[0])
        bars = [
            [
                Bar(n * width, width, float(share) / highest, beyond=math.isfinite(threshold) and first + n >= 0)
                for n, share in enumerate(part)
            ]
            for part in shares
        ]
        return cls(axis, bars[0], bars[1], above, highest)

    def outline(self) -> str:
        """SVG path of the healthy scans' steps, x in per cent, y from 0 (top) to 100."""
        filled = [n for n, bar in enumerate(self.healthy) if bar.height]
        steps = self.healthy[filled[0] : filled[-1] + 1]
        path = f"M{steps[0].left:.2f} 100"
        for bar in steps:
            path += f"V{100 - 100 * bar.height:.2f}H{bar.left + bar.width:.2f}"
        return path + "V100"


def _shares(values: NDArray[np.float64], anchor: float, step: float, first: int, last: int) -> NDArray[np.float64]:
    """Share of values in each bin (anchor + n step, anchor + (n + 1) step], n from first to last - 1."""
    if not values.size:
        return np.zeros(last - first)
    bins = np.ceil((values - anchor) / step).astype(int) - 1 - first
    return np.bincount(bins, minlength=last - first)[: last - first] / values.size


def busy_hours(ends: Sequence[float], seconds: Sequence[float]) -> float:
    """Hours in which at least one worker was busy: the union of the spans that end at ``ends`` after ``seconds``.

    Pauses of a screening that was stopped and went on later do not count.

    Args:
        ends: seconds since 1970.
        seconds: how long each took, s.
    """
    if not len(ends):
        return 0.0
    stop = np.asarray(ends, dtype=np.float64)
    start = stop - np.asarray(seconds, dtype=np.float64)
    order = np.argsort(start)
    start, stop = start[order], np.maximum.accumulate(stop[order])
    gaps = np.maximum(start[1:] - stop[:-1], 0.0).sum()
    return float(stop[-1] - start[0] - gaps) / 3600
