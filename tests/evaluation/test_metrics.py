"""Metrics give the textbook values, count only what lies in the body, and repeat with their seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from klip_monai.errors import InputError
from klip_monai.evaluation import (
    auroc,
    block_level_auroc,
    bootstrap,
    dice,
    false_positive_rate,
    image_level_auroc,
    sensitivity,
    slice_level_auroc,
    slice_scores,
)
from klip_monai.evaluation.metrics import by_lesion


@pytest.fixture
def lesion_slices():
    """Six 16 x 16 slices: the body is the middle 8 x 8, the lesion its first 2 x 2; maps are noise, higher in it."""
    body = torch.zeros(6, 1, 16, 16, dtype=torch.bool)
    body[..., 4:12, 4:12] = True
    masks = torch.zeros_like(body)
    masks[..., 4:6, 4:6] = True
    maps = torch.rand(body.shape, generator=torch.Generator().manual_seed(0)) + 0.5 * masks
    return maps, masks, body


def test_auroc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    assert auroc([0.1, 0.5, 0.5, 0.9], [False, False, True, True]) == pytest.approx(3.5 / 4)


def test_auroc_of_one_class_is_refused():
    with pytest.raises(InputError, match="got 0 anomalous of 3"):
        auroc([1, 2, 3], [False, False, False])


def test_pixels_outside_the_body_do_not_change_the_image_level(lesion_slices):
    maps, masks, body = lesion_slices
    elsewhere = torch.where(body, maps, torch.tensor(100.0))
    assert image_level_auroc(elsewhere, masks, body) == image_level_auroc(maps, masks, body)
    assert 0.5 < image_level_auroc(maps, masks, body).value < 1


def test_image_level_averages_the_roc_of_each_slice_and_is_blind_to_scale_between_slices(lesion_slices):
    maps, masks, body = lesion_slices
    each = [auroc(m[b].numpy(), y[b].numpy()) for m, y, b in zip(maps, masks, body, strict=True)]
    scaled = maps * torch.arange(1, 7).reshape(6, 1, 1, 1)
    assert image_level_auroc(scaled, masks, body).value == pytest.approx(np.mean(each))


def test_image_level_refuses_shapes_that_differ(lesion_slices):
    maps, masks, body = lesion_slices
    with pytest.raises(InputError, match=r"expected \(6, 1, 8, 8\)"):
        image_level_auroc(maps[..., :8, :8], masks, body)


def test_blocks_of_one_pixel_are_the_pixels(lesion_slices):
    assert block_level_auroc(*lesion_slices, size=1) == image_level_auroc(*lesion_slices)


def test_a_block_with_one_lesion_pixel_is_a_lesion_block_and_background_only_counts_in_legacy():
    body = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    body[..., :4, :] = True  # 2 of 4 blocks
    masks = torch.zeros_like(body)
    masks[..., 0, 0] = True
    density = torch.ones(1, 1, 8, 8)
    density[..., :4, :4] = 0.5  # the lesion's block scores lower than the healthy one, higher than air
    density[..., 4:, :] = 100.0  # outside the body: must not count
    assert block_level_auroc(density, masks, body, size=4).value == 0
    assert block_level_auroc(density, masks, body, size=4, protocol="legacy").value == pytest.approx(2 / 3)


def test_unknown_protocol_is_refused(lesion_slices):
    with pytest.raises(InputError, match="'everything', expected one of in-body, legacy"):
        block_level_auroc(*lesion_slices, size=2, protocol="everything")


def test_slice_score_is_the_highest_in_body_value(lesion_slices):
    maps, _, body = lesion_slices
    maps[0, 0, 0, 0] = 50.0
    maps[1, 0, 7, 7] = 60.0
    scores = slice_scores(maps, body)
    assert scores[0] < 50
    assert scores[1] == 60


def test_slice_level_and_sensitivity_of_separated_and_of_equal_groups():
    healthy, overlapping = np.arange(40.0), np.arange(20.0, 70.0)
    labels = np.arange(90) >= 40
    assert slice_level_auroc(healthy, overlapping).value == pytest.approx(auroc([*healthy, *overlapping], labels))
    assert slice_level_auroc(healthy, healthy + 100).value == 1
    assert slice_level_auroc(healthy, healthy).value == 0.5
    assert sensitivity(healthy, healthy + 100).value == 1
    assert sensitivity(healthy, healthy).value <= 0.05


def test_interval_holds_the_estimate_narrows_with_patients_and_repeats_with_its_seed():
    values = np.random.default_rng(1).normal(size=400)
    few, many = (bootstrap(lambda v: float(v.mean()), values[:n]) for n in (25, 400))
    assert many.low < many.value < many.high
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert many.high - many.low < few.high - few.low
    assert bootstrap(lambda v: float(v.mean()), values) == many
    assert bootstrap(lambda v: float(v.mean()), values, seed=1) != many


def test_one_patient_has_no_interval_and_none_is_refused():
    assert str(bootstrap(np.mean, [0.25])) == "0.250"
    with pytest.raises(InputError, match=r"got \[0\] entries"):
        bootstrap(np.mean, [])


def test_dice_of_overlapping_equal_and_empty_masks():
    a, b = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    assert dice(a, b) == 1
    a[0, :4], b[0, 2:] = True, True
    assert dice(a, b) == pytest.approx(2 * 2 / 6)
    assert dice(a, ~a) == 0


def test_intervals_are_over_patients_and_not_over_their_slices():
    # Ten patients of 50 like slices each say no more than ten slices.
    values = np.repeat(np.linspace(0, 1, 10), 50)
    patients = [np.repeat(np.arange(10), 50)]
    clustered, alone = bootstrap(np.mean, values, patients=patients), bootstrap(np.mean, np.linspace(0, 1, 10))
    assert clustered.value == pytest.approx(alone.value)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.1)
    naive = bootstrap(np.mean, values)
    assert naive.high - naive.low < 0.3 * (clustered.high - clustered.low)
    assert bootstrap(np.mean, [0.1, 0.2], patients=[["one", "one"]]).low is None


@pytest.mark.parametrize("lesions", [20, 33, 7])
@pytest.mark.parametrize("rate", [0.95, 0.8, 1.0])
def test_false_positive_rate_is_the_least_on_the_roc_that_finds_enough(lesions, rate):
    rng = np.random.default_rng(lesions)
    healthy, lesion = rng.normal(size=50).round(1), (rng.normal(size=lesions) + 1).round(1)
    labels = np.arange(50 + lesions) >= 50
    false, true, _ = roc_curve(labels, np.concatenate([healthy, lesion]), drop_intermediate=False)
    found = false_positive_rate(healthy, lesion, true_positive_rate=rate)
    assert found.value == pytest.approx(false[true >= rate - 1e-9].min())
    assert found.low <= found.value <= found.high


def test_patients_with_and_without_lesions_are_resampled_on_their_own():
    seen = []

    def share(chosen):
        seen.append(np.asarray(chosen))
        return float(np.mean(chosen < 4))

    ill = [True, False, False, True, False, False]
    found = by_lesion(share, ill, patients=["a", "a", "b", "b", "c", "d"])
    assert found.value == pytest.approx(4 / 6)
    assert (found.low, found.high) == (found.value, found.value)
    assert all((chosen == 0).sum() == (chosen == 1).sum() for chosen in seen)  # a patient's slices stay together
    assert any((chosen == 0).sum() == 2 and (chosen == 1).sum() == 2 for chosen in seen)
    with pytest.raises(InputError, match="lesions: got none in 2"):
        by_lesion(share, [False, False])
