"""Peaks of heat maps, and the share of lesions that hold one at a number of false ones."""

from __future__ import annotations

import numpy as np
import pytest

from klip_monai.errors import InputError
from klip_monai.evaluation import find_peaks, sensitivity_at

SPACING = (5.0, 2.0, 2.0)


def test_peaks_come_highest_first_with_their_lesion_and_close_ones_are_one():
    heat, lesions = np.zeros((10, 40, 40)), np.zeros((10, 40, 40), dtype=int)
    lesions[2:4, 12:16, 12:16], lesions[7, 24:28, 14:18] = 1, 2
    heat[3, 13, 13], heat[3, 13, 15] = 3.0, 2.5  # 4 mm apart
    heat[7, 25, 15] = 1.0
    heat[5, 6, 30] = 2.0
    assert find_peaks(heat, lesions, spacing_mm=SPACING) == ((3.0, 1), (2.0, 0), (1.0, 2))


def test_a_slice_is_a_scan_of_one():
    heat = np.zeros((1, 20, 20))
    heat[0, 4, 4], heat[0, 15, 15] = 1.0, 2.0
    assert find_peaks(heat, np.zeros(heat.shape, dtype=int), spacing_mm=SPACING) == ((2.0, 0), (1.0, 0))


PEAKS = [[(3.0, 1), (2.0, 0), (1.5, 0), (1.0, 2)]]


@pytest.mark.parametrize(("allowed", "found"), [(0, 0.5), (1, 0.5), (2, 1.0), (9, 1.0)])
def test_lesions_above_the_allowed_false_peaks_are_found(allowed, found):
    assert sensitivity_at(PEAKS, [2], false_positives=allowed).value == found


def test_a_lesion_no_higher_than_a_false_peak_too_many_is_not_found():
    assert sensitivity_at([[(2.0, 0), (2.0, 1)]], [1], false_positives=0).value == 0


def test_false_peaks_of_healthy_scans_raise_the_threshold():
    healthy = [[(2.5, 0), (2.2, 0)], [(2.6, 0)]]
    assert sensitivity_at(PEAKS * 2, [2, 2], false_positives=2).value == 1.0
    found = sensitivity_at(PEAKS * 2 + healthy, [2, 2, 0, 0], false_positives=1)
    assert found.value == 0.5
    assert found.low is not None


def test_it_is_the_curve_of_every_threshold_at_that_number():
    rng = np.random.default_rng(0)
    peaks = [[(float(rng.normal() + (i < 2)), i + 1 if i < 2 else 0) for i in range(6)] for _ in range(8)]
    lesions = [2] * 8
    for allowed in (0.5, 1.0, 2.5):
        reached = []
        for threshold in {value for scan in peaks for value, _ in scan}:
            wrong = sum(value >= threshold and not lesion for scan in peaks for value, lesion in scan)
            hit = sum(value >= threshold and lesion > 0 for scan in peaks for value, lesion in scan)
            if wrong <= allowed * 8:
                reached.append(hit / 16)
        assert sensitivity_at(peaks, lesions, false_positives=allowed).value == pytest.approx(max(reached))


def test_no_lesion_and_lists_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="lesions: got none in 1 slices or scans"):
        sensitivity_at([[(1.0, 0)]], [0], false_positives=1)
    with pytest.raises(InputError, match="lesions: got 2 numbers, expected 1"):
        sensitivity_at(PEAKS, [2, 0], false_positives=1)
