from __future__ import annotations

import json
import math

import pytest

from klip_monai.inferer import KLIPInferer
from klip_monai.physics import AttenuationScale, Identity, ParallelBeam, PoissonNoise, Tomography

SHAPE = (24, 20)
OPERATOR = Tomography(ParallelBeam(image_shape=SHAPE, pixel_mm=3.0, views=12))
FAST = {"window": (0.4, 0.1), "window_levels": 3, "sampler_levels": 6, "cg_iterations": 3}


def inferer(**options) -> KLIPInferer:
    return KLIPInferer(options.pop("operator", OPERATOR), **{**FAST, **options})


@pytest.mark.parametrize("estimator", ["renoised", "trajectory"])
def test_description_is_json_and_names_all_that_a_score_depends_on(estimator):
    base = inferer(estimator=estimator)
    described = json.dumps(base.describe())
    assert described == json.dumps(inferer(estimator=estimator, seed=7, batch_size=3).describe())
    assert "seed" not in described
    changes = [
        {"window": (0.5, 0.1)},
        {"samples": 2},
        {"sampler_levels": 7},
        {"sigma_max": 4.0},
        {"sigma_min": 0.03},
        {"churn": 0.5},
        {"noise_std": 0.02},
        {"data_std": 0.4},
        {"cg_iterations": 4},
        {"smoothing_px": 1.0},
        {"operator": Identity(SHAPE)},
    ]
    changes += [{"window_levels": 4}, {"draws": 2}] if estimator == "renoised" else []
    for change in changes:
        assert json.dumps(inferer(estimator=estimator, **change).describe()) != described, change


def test_settings_of_the_other_estimator_are_left_out():
    first, second = (inferer(estimator="trajectory", window_levels=n, draws=n).describe() for n in (3, 5))
    assert first == second
    assert inferer().describe() != inferer(estimator="trajectory").describe()


def test_no_window_counts_every_level_of_the_sampler():
    one = inferer(estimator="trajectory", window=None, sigma_max=2.0, sigma_min=0.05)
    assert (one.window.high, one.window.low) == (2.0, 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "guess"}, "estimator: got 'guess', expected one of renoised, trajectory"),
        ({"samples": 0}, "expected at least 1 each"),
        ({"sampler_levels": 0, "estimator": "trajectory"}, "sampler_levels: got 0, expected at least 1, or 0 for ren"),
        ({"sampler_levels": 0, "twins": 1}, "sampler_levels: got 0"),
        ({"batch_size": 0}, "expected at least 1 each"),
        ({"window": (0.1, 0.4)}, "window: got high 0.1 and low 0.4"),
        ({"twins": 1, "sharp": True}, "sharp: got it with 1 twins"),
        ({"skin_px": -1}, "skin_px: got -1, expected 0 or more"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        inferer(**options)


def test_a_rim_is_a_setting_where_there_is_one():
    assert "skin_px" not in inferer().describe()
    assert inferer(skin_px=6).describe()["skin_px"] == 6.0


def test_twins_are_counted_in_passes_and_settings_only_where_there_are_any():
    operator = Identity((32, 32))
    plain, twinned = KLIPInferer(operator), KLIPInferer(operator, twins=2)
    assert "twins" not in plain.describe()
    assert twinned.describe()["twins"] == 2
    levels = round(40 * math.log(1.0 / 0.02) / math.log(3.0 / 0.02))
    assert twinned.passes == 3 * plain.passes + 2 * levels
    with pytest.raises(ValueError, match="twins, twin_sigma: got -1"):
        KLIPInferer(operator, twins=-1)


def test_data_of_other_rays_are_refused():
    other = Tomography(ParallelBeam(image_shape=SHAPE, pixel_mm=3.0, views=13))
    with pytest.raises(ValueError, match="data_operator: got slices and measurements"):
        inferer(data_operator=other)


def test_photons_take_the_place_of_white_noise_in_the_description():
    noise = PoissonNoise(1e4, AttenuationScale.from_hu((-160, 240)))
    assert "noise_std" not in inferer(noise=noise).describe()
    assert inferer(noise=noise).describe()["noise"]["photons"] == 1e4
    assert inferer().describe()["noise_std"] == 0.003
    assert "noise" not in inferer().describe()
    moved = inferer(twins=1).with_operator(Identity(SHAPE), noise=noise)
    assert moved.describe() == inferer(operator=Identity(SHAPE), twins=1, noise=noise).describe()


def test_spreading_noise_and_a_margin_are_settings_where_they_are_asked_for():
    assert not {"noise_px", "body_margin_px"} & inferer().describe().keys()
    described = inferer(noise_px=8.0, body_margin_px=4).describe()
    assert (described["noise_px"], described["body_margin_px"]) == (8.0, 4)
    assert "noise_px" not in inferer(noise_px=8.0, estimator="trajectory").describe()
