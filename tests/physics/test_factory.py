from __future__ import annotations

import pytest

from klip_monai.physics import make_operator


@pytest.mark.parametrize("name", ["sparse_view", "fan_beam"])
def test_a_detector_of_ones_own_is_taken(name):
    options = {"image_shape": (16, 16), "pixel_mm": 3.0, "views": 4}
    default, own = make_operator(name, **options), make_operator(name, **options, detectors=30, pitch_mm=2.5)
    assert own.geometry.sinogram_shape == (4, 30)
    assert own.geometry.pitch_mm == 2.5
    assert default.describe() == make_operator(name, **options, detectors=None, pitch_mm=None).describe()
