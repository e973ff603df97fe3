from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screened import reference

from klip_monai.errors import InputError
from klip_monai.screening.report_figures import Histogram, Threshold, busy_hours


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 120), st.floats(0.001, 0.999), st.integers(0, 5), st.booleans())
def test_a_scan_lies_beyond_the_threshold_exactly_if_its_p_value_is_at_most_the_rate(scans, rate, seed, shared):
    healthy = reference(scans, seed=seed)
    if shared:
        healthy = replace(healthy, patients=tuple(i % 7 for i in range(scans)))
    threshold = Threshold.of(healthy, rate)
    assert threshold.rate <= rate + 1e-9
    around = np.asarray(healthy.scan_scores)
    for score in (*around, *np.nextafter(around, 9), *np.nextafter(around, 0), 0.0, 10.0):
        assert (score > threshold.score) == (healthy.p_value(float(score)) <= rate + 1e-9)


def test_new_healthy_scans_lie_beyond_the_threshold_as_often_as_said():
    calls = []
    for seed in range(300):
        threshold = Threshold.of(reference(19, seed=seed), 0.1)
        calls.append(np.mean(np.asarray(reference(500, seed=1000 + seed).scan_scores) > threshold.score))
    assert np.mean(calls) == pytest.approx(0.1, abs=0.015)


def test_too_few_healthy_scans_give_no_threshold():
    assert Threshold.of(reference(10), 0.05) == Threshold(math.inf, 0.0)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(InputError, match="false_alarm_rate"):
        Threshold.of(reference(), rate)


@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0])
def test_bars_on_either_side_of_the_threshold_hold_the_scans_on_that_side(spread):
    healthy = reference()
    threshold = Threshold.of(healthy, 0.05).score
    scores = [*np.exp(np.random.default_rng(2).normal(-1.6, spread, 2000)), threshold]
    histogram = Histogram.of(scores, healthy.scan_scores, threshold)
    beyond = sum(bar.height for bar in histogram.archive if bar.beyond) * histogram.highest
    assert beyond == pytest.approx(np.mean(np.asarray(scores) > threshold))
    assert sum(bar.height for bar in histogram.archive) * histogram.highest == pytest.approx(1.0)
    edge = next(bar.left for bar in histogram.archive if bar.beyond)
    assert edge == pytest.approx(histogram.axis.place(threshold), abs=1e-6)


@pytest.mark.parametrize("scores", [[0.2], [0.2] * 5, [0.0, 0.1], [-1.0, 3.0], [1e6]])
def test_any_scores_make_a_histogram_without_a_threshold(scores):
    histogram = Histogram.of(scores, (0.2, 0.2), math.inf)
    assert not any(bar.beyond for bar in histogram.archive)
    assert sum(bar.height for bar in histogram.archive) * histogram.highest == pytest.approx(1.0)
    assert all(0 <= place <= 100 for place, _ in histogram.axis.ticks())


def test_pauses_and_workers_side_by_side_do_not_count_twice():
    # Two workers from 0 to 3600 s, a pause, and one more hour.
    ends, seconds = [3600, 1800, 3600, 90_000], [3600, 1800, 1800, 3600]
    assert busy_hours(ends, seconds) == pytest.approx(2.0)
    assert busy_hours([], []) == 0.0
