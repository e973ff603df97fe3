"""Reconstructions by the prior, and z-scores of their errors."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from monai.metrics import SSIMMetric
from white_noise import NETWORK, STD, slices, whole

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines import DDPMOOD, AnoDDPM
from klip_monai.prior import log_sigmas

QUICK = {"levels": 8, "stride": 3, "sigma_max": 2.0}


def ddim_error(sigmas: list[float]) -> float:
    """Mean squared error of DDIM for the Gaussian prior: each step multiplies the state by a known factor."""
    factor = 1.0
    for sigma, sigma_next in pairwise([*sigmas, 0.0]):
        keep = STD**2 / (STD**2 + sigma**2)
        factor *= keep + sigma_next / sigma * (1 - keep)
    return (1 - factor) ** 2 * STD**2 + factor**2 * sigmas[0] ** 2


@pytest.mark.parametrize("levels", [1, 8])
def test_ddim_brings_the_noised_slice_back_by_the_known_factor(levels):
    images = slices(64)
    expected = ddim_error(log_sigmas(levels, sigma_max=0.4, sigma_min=0.02).tolist())
    found = AnoDDPM(levels=levels, sigma_start=0.4, churn=0.0)(images, NETWORK)
    assert float(found.mean()) == pytest.approx(expected, rel=0.03)
    learnt = DDPMOOD(levels=levels, stride=levels, sigma_max=0.4).fit(images, whole(images), NETWORK)
    assert float(learnt.healthy.pixel[0, 0]) == pytest.approx(expected, rel=0.03)


def test_from_a_low_level_the_slice_comes_back():
    images = slices(2)
    low, high = (float(AnoDDPM(sigma_start=s, levels=10)(images, NETWORK).mean()) for s in (0.03, 1.0))
    assert low < 0.1 * high


def test_healthy_slices_have_z_scores_of_mean_zero_and_each_error_counts_the_same():
    healthy = slices(12)
    fitted = DDPMOOD(level="slice", **QUICK).fit(healthy, whole(healthy), NETWORK)
    scores = fitted(healthy, NETWORK)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert 0.1 < float(scores.std()) < 1.01
    pixels = DDPMOOD(**QUICK).fit(healthy, whole(healthy), NETWORK)(healthy, NETWORK)
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-3)


def test_pixels_outside_the_body_have_no_part_in_the_map_z_scores():
    healthy = slices(6)
    body = whole(healthy)
    body[..., :12] = False
    other = torch.where(body, healthy, torch.full_like(healthy, 0.9))
    a, b = (DDPMOOD(**QUICK).fit(images, body, NETWORK).healthy.pixel for images in (healthy, other))
    torch.testing.assert_close(a, b)


def test_the_slice_score_is_the_mean_z_score_of_squared_error_and_dissimilarity():
    healthy, images = slices(6), slices(2, seed=9)
    method = DDPMOOD(level="slice", levels=4, stride=4, sigma_max=0.5)
    made = [method._in_batches(x, lambda b, g: method._reconstructions(b, NETWORK, g)) for x in (healthy, images)]
    errors = [
        torch.stack(
            [(m - x).square().mean(dim=(1, 2, 3)), 1 - SSIMMetric(2, data_range=2.0)(y_pred=m, y=x)[:, 0]], dim=1
        )
        for m, x in zip(made, (healthy, images), strict=True)
    ]
    expected = ((errors[1] - errors[0].mean(dim=0)) / errors[0].std(dim=0)).mean(dim=1)
    found = method.fit(healthy, whole(healthy), NETWORK)(images, NETWORK)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_runs_start_at_every_stride_th_level():
    assert DDPMOOD(levels=20, stride=4).passes == 20 + 16 + 12 + 8 + 4
    with pytest.raises(InputError, match=r"stride: got 0, expected 1 to levels \(20\)"):
        DDPMOOD(stride=0)
