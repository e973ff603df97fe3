from __future__ import annotations

import json
import math

import pytest

from klip_monai.inferer import KLIPInferer
from klip_monai.physics import AttenuationScale, GaussianNoise, Identity, ParallelBeam, PoissonNoise, Tomography
from klip_monai.settings import SETTINGS, DensityReading, Estimation, Measured, Sampling, Twins

SHAPE = (24, 20)
OPERATOR = Tomography(ParallelBeam(image_shape=SHAPE, pixel_mm=3.0, views=12))
FAST = {"window": (0.4, 0.1), "window_levels": 3, "sampler_levels": 6, "cg_iterations": 3}


def inferer(**options) -> KLIPInferer:
    return KLIPInferer.of(options.pop("operator", OPERATOR), **{**FAST, **options})


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
    assert (one.estimation.range.high, one.estimation.range.low) == (2.0, 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "guess"}, "estimator: got 'guess', expected one of renoised, trajectory"),
        ({"samples": 0}, "samples: got 0, expected 1 or more"),
        ({"sampler_levels": 0, "estimator": "trajectory"}, "sampler_levels: got 0, expected at least 1, or 0 for ren"),
        ({"sampler_levels": 0, "twins": 1}, "sampler_levels: got 0"),
        ({"batch_size": 0}, "batch_size: got 0, expected 1 or more"),
        ({"window": (0.1, 0.4)}, r"window: got \(0.1, 0.4\), expected two noise levels, the higher one first"),
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
    plain, twinned = KLIPInferer.of(operator), KLIPInferer.of(operator, twins=2)
    assert "twins" not in plain.describe()
    assert twinned.describe()["twins"] == 2
    levels = round(40 * math.log(1.0 / 0.02) / math.log(3.0 / 0.02))
    assert twinned.passes == 3 * plain.passes + 2 * levels
    with pytest.raises(ValueError, match="twins: got -1, expected 0 or more"):
        KLIPInferer.of(operator, twins=-1)


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


LEVELS = {
    "window_levels": {"alone": 6, "of_samples": 16},
    "sampler_levels": {"alone": 0, "of_samples": 8, "of_paths": 40},
}


@pytest.mark.parametrize(
    ("changes", "window_levels", "sampler_levels"),
    [
        ({"operator": Identity(SHAPE)}, 6, 0),
        ({}, 16, 8),
        ({"operator": Identity(SHAPE), "twins": 1}, 16, 40),
        ({"estimator": "trajectory"}, 16, 40),
    ],
)
def test_levels_follow_from_what_they_are_for(changes, window_levels, sampler_levels):
    one = inferer(**LEVELS | changes)
    assert (one.estimation.window_levels, one.sampling.sampler_levels) == (window_levels, sampler_levels)
    again = inferer(**LEVELS).changed(**changes)
    assert again.describe() == one.describe(), "also where the measurement is changed afterwards"


def test_the_strength_of_a_calibration_follows_from_the_null():
    one = inferer(null="context", calibration={"context": 0.5, "contrast": 0.75})
    assert [one.changed(null=null).reading.strength for null in ("context", "contrast", "none")] == [0.5, 0.75, 0.0]
    assert one.changed(null="contrast").describe() == inferer(calibration=0.75).describe()


def test_settings_by_plain_names_are_those_of_the_values():
    by_values = KLIPInferer(
        Measured(OPERATOR, GaussianNoise(0.01)),
        sampling=Sampling(samples=2),
        estimation=Estimation(window=(0.5, 0.1)),
        reading=DensityReading(skin_px=3),
        twins=Twins(twins=1),
        seed=3,
    )
    named = {"noise_std": 0.01, "samples": 2, "window": (0.5, 0.1), "skin_px": 3, "twins": 1}
    assert by_values.describe() == KLIPInferer.of(OPERATOR, **named).describe()
    assert by_values.changed(seed=4, batch_size=2, skin_px=0).describe() == by_values.changed(skin_px=0).describe()
    assert set(SETTINGS) >= set(named)
    with pytest.raises(TypeError, match=r"sample: there is no such setting, expected any of .*samples"):
        by_values.changed(sample=2)


def test_a_configuration_of_an_earlier_build_is_taken_with_a_warning():
    with pytest.warns(FutureWarning, match="got settings by their plain names, expected measured, sampling"):
        earlier = KLIPInferer(operator=OPERATOR, window=[0.4, 0.1], noise_std=0.01, batch_size=4, seed=1)
    assert earlier.describe() == KLIPInferer.of(OPERATOR, window=[0.4, 0.1], noise_std=0.01).describe()
    assert (earlier.batch_size, earlier.seed) == (4, 1)
