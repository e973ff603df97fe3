"""Average precision and best Dice agree with scikit-learn, over slices and over the pixels of all slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from klip_monai.errors import InputError
from klip_monai.evaluation import (
    average_precision,
    best_dice,
    pixel_average_precision,
    pixel_best_dice,
    slice_average_precision,
)

values = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30)


@given(values.filter(lambda pairs: any(label for _, label in pairs)))
@settings(deadline=None, max_examples=80)
def test_with_and_without_ties_it_is_what_scikit_learn_says(pairs):
    scores, labels = (np.array(column) for column in zip(*pairs, strict=True))
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    each = [f1_score(labels, scores >= threshold) for threshold in np.unique(scores)]  # Dice is F1
    assert best_dice(scores, labels) == pytest.approx(max(each))


def test_best_dice_is_that_of_the_best_threshold():
    assert best_dice([0.9, 0.8, 0.7, 0.1], [True, False, True, False]) == pytest.approx(0.8)


@pytest.mark.parametrize("figure", [average_precision, best_dice])
def test_nothing_anomalous_is_refused(figure):
    with pytest.raises(InputError, match="labels: got 0 anomalous of 3"):
        figure([1, 2, 3], [False, False, False])


def test_slices_are_ranked_together():
    rng = np.random.default_rng(0)
    healthy, lesion = rng.normal(size=60), rng.normal(size=20) + 1
    found = slice_average_precision(healthy, lesion)
    expected = average_precision_score(np.arange(80) >= 60, np.concatenate([healthy, lesion]))
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert slice_average_precision(healthy, healthy.max() + 1 + lesion**2).value == 1
    assert slice_average_precision(healthy, np.full(20, -9.0)).value == pytest.approx(20 / 80)


@pytest.fixture
def scans():
    """Twelve slices of six patients, the first eight slices with a lesion; the body is the upper half."""
    generator = torch.Generator().manual_seed(0)
    body = torch.zeros(12, 1, 16, 16, dtype=torch.bool)
    body[..., :8, :] = True
    masks = torch.zeros_like(body)
    masks[:8, :, 2:6, 3:7] = True
    maps = torch.rand(body.shape, generator=generator) + 0.6 * masks
    return maps, masks, body, [index // 2 for index in range(12)]


def test_pixels_of_all_slices_make_one_curve(scans):
    maps, masks, body, patients = scans
    scores, labels = maps[body].numpy(), masks[body].numpy()
    precision = pixel_average_precision(maps, masks, body, patients=patients)
    overlap = pixel_best_dice(maps, masks, body, patients=patients)
    assert precision.value == pytest.approx(average_precision_score(labels, scores))
    assert overlap.value == pytest.approx(best_dice(scores, labels))
    for figure in (precision, overlap):
        assert figure.low < figure.value < figure.high


def test_false_alarms_in_healthy_slices_and_only_inside_the_body_lower_the_figures(scans):
    maps, masks, body, patients = scans
    loud = maps.clone()
    loud[8:] += 0.5
    outside = torch.where(body, maps, torch.tensor(9.0))
    for figure in (pixel_average_precision, pixel_best_dice):
        plain = figure(maps, masks, body, patients=patients)
        assert figure(loud, masks, body, patients=patients).value < plain.value
        assert figure(outside, masks, body, patients=patients) == plain


def test_many_pixels_at_few_thresholds_give_the_same_to_a_thousandth():
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(2, 1, 300, 300, generator=generator) < 0.1
    maps = torch.randn(masks.shape, generator=generator) + 1.5 * masks
    scores, labels = maps.flatten().numpy(), masks.flatten().numpy()
    every = torch.ones_like(masks)
    assert pixel_average_precision(maps, masks, every).value == pytest.approx(
        average_precision_score(labels, scores), abs=1e-3
    )
    assert pixel_best_dice(maps, masks, every).value == pytest.approx(best_dice(scores, labels), abs=1e-3)


def test_lesions_outside_the_body_and_other_shapes_are_refused(scans):
    maps, masks, body, _ = scans
    with pytest.raises(InputError, match="got no lesion pixel in the body"):
        pixel_average_precision(maps, masks & ~body, body)
    with pytest.raises(InputError, match=r"expected \(12, 1, 8, 16\)"):
        pixel_best_dice(maps[:, :, :8], masks, body)
