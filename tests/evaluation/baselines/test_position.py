"""The z-score of each position against healthy slices."""

from __future__ import annotations

import pytest
import torch
from white_noise import NETWORK, SHAPE, STD, slices, whole

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines import PositionZScore


def test_without_smoothing_it_is_the_z_score_of_each_pixel():
    ramp = torch.linspace(-0.5, 0.5, SHAPE[1])
    healthy, images = slices(2000) + ramp, slices(3, seed=4) + ramp
    found = PositionZScore(smoothing_px=0).fit(healthy, whole(healthy), NETWORK)(images, NETWORK)
    expected = (images - healthy.mean(dim=0)).abs() / healthy.std(dim=0)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_smoothing_borrows_from_positions_around():
    few, images = slices(4), slices(50, seed=4)
    spread = [PositionZScore(smoothing_px=px).fit(few, whole(few), NETWORK).healthy.std.std() for px in (0.0, 2.0)]
    assert float(spread[1]) < 0.3 * float(spread[0])
    scores = PositionZScore(smoothing_px=2.0).fit(few, whole(few), NETWORK)(images, NETWORK)
    assert float(scores.square().mean()) == pytest.approx(1, abs=0.15)


def test_pixels_outside_the_body_are_not_learnt():
    healthy = slices(30)
    body = whole(healthy)
    body[::2] = False
    healthy[::2] = 1.0
    atlas = PositionZScore(smoothing_px=1.0).fit(healthy, body, NETWORK).healthy
    assert float(atlas.mean.mean()) == pytest.approx(0, abs=0.02)
    assert float(atlas.std.mean()) == pytest.approx(STD, rel=0.1)


def test_where_there_never_is_body_the_average_of_all_positions_holds():
    healthy = slices(30) + 0.3
    body = whole(healthy)
    body[..., :10] = False
    atlas = PositionZScore(smoothing_px=0).fit(healthy, body, NETWORK).healthy
    torch.testing.assert_close(atlas.mean[..., :10], torch.full_like(atlas.mean[..., :10], float(healthy[body].mean())))


def test_flat_tissue_has_the_least_standard_deviation():
    healthy = torch.zeros(5, 1, *SHAPE)
    method = PositionZScore(least_std=0.05).fit(healthy, whole(healthy), NETWORK)
    assert float(method(healthy + 0.1, NETWORK).mean()) == pytest.approx(2.0)


def test_other_shapes_and_slices_without_body_are_refused():
    healthy = slices(4)
    method = PositionZScore().fit(healthy, whole(healthy), NETWORK)
    with pytest.raises(InputError, match=r"got slices of \(12, 24\) pixels, expected \(24, 24\)"):
        method(healthy[:, :, :12], NETWORK)
    with pytest.raises(InputError, match="body: got no pixel inside the body"):
        method.fit(healthy, ~whole(healthy), NETWORK)
