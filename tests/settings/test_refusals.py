"""Settings of another kind or out of range, and plain names that are a value's too."""

from __future__ import annotations

from typing import Any

import pytest

from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.settings import Levels

OPERATOR = Identity((32, 32))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("samples", 1.5, "a whole number"),
        ("samples", True, "a whole number"),
        ("twins", 1.5, "a whole number"),
        ("sharp", "yes", "true or false"),
        ("crossed", 1, "true or false"),
        ("lowpass_px", -1.0, "0 or more"),
        ("smoothing_px", "1", "a number"),
        ("smoothing_px", float("nan"), "a number"),
        ("churn", 5.0, r"0 \(DDIM\) to 1"),
        ("data_std", 0.0, "above 0"),
        ("cg_iterations", 0, "1 or more"),
        ("sigma_max", 0.01, "below 0.01"),
        ("sampler_levels", -1, "how many"),
        ("sampler_levels", 4.5, "how many"),
        ("window", "abc", "two noise levels"),
        ("window", [0.1], "two noise levels"),
        ("calibration", 2, r"0 \(none\) to 1"),
        ("calibration", {"context": 0.5}, "one of contrast"),
        ("noise", 0.1, "a Noise"),
    ],
)
def test_settings_of_another_kind_or_range_are_refused_by_name(name: str, value: Any, expected: str) -> None:
    named = "sigma_min" if name == "sigma_max" else name
    with pytest.raises(ValueError, match=f"^{named}: got .*expected .*{expected}"):
        KLIPInferer.of(OPERATOR, **{name: value})


def test_whole_numbers_count_as_numbers_and_window_and_levels_may_be_lists() -> None:
    inferer = KLIPInferer.of(
        OPERATOR, smoothing_px=2, window=[1, 0.1], window_levels=[0.5], sampler_levels=Levels(alone=0, of_samples=8)
    )
    assert inferer.estimation.edges == [1.0, 0.5, 0.1]
    assert inferer.sampling.passes == 0


def test_twins_by_number_are_taken_as_earlier_configurations_have_them() -> None:
    with pytest.warns(FutureWarning, match="plain names"):
        earlier = KLIPInferer(operator=OPERATOR, twins=2, sampler_levels=8)
    assert earlier.describe() == KLIPInferer.of(OPERATOR, twins=2, sampler_levels=8).describe()
