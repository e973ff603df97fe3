from __future__ import annotations

import pytest

from klip_monai.errors import InputError
from klip_monai.physics import make_operator


@pytest.mark.parametrize("name", ["sparse_view", "fan_beam"])
def test_a_detector_of_ones_own_is_taken(name):
    options = {"image_shape": (16, 16), "pixel_mm": 3.0, "views": 4}
    default, own = make_operator(name, **options), make_operator(name, **options, detectors=30, pitch_mm=2.5)
    assert own.geometry.sinogram_shape == (4, 30)
    assert own.geometry.pitch_mm == 2.5
    assert default.describe() == make_operator(name, **options, detectors=None, pitch_mm=None).describe()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_inpainting_misses_the_same_random_pixels_each_time(share):
    one, same = (make_operator("inpainting", image_shape=(16, 12), pixel_mm=3.0, measured=share) for _ in range(2))
    assert one.describe() == same.describe()
    assert one.describe()["measured"] == pytest.approx(share)
    assert one.mask.any(dim=0).all()
    assert one.mask.any(dim=1).all()


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_an_impossible_share_of_pixels_is_refused(share):
    with pytest.raises(InputError, match="measured: got"):
        make_operator("inpainting", image_shape=(16, 12), pixel_mm=3.0, measured=share)
