from __future__ import annotations

import pytest

from klip_monai.errors import InputError
from klip_monai.physics import make_operator
from klip_monai.physics.factory import OPERATORS


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


@pytest.mark.parametrize(("measured", "side"), [(0.75, 8), (0.5, 11), (0.1, 15), (1.0, 0)])
def test_inpainting_misses_a_square_in_the_middle(measured, side):
    options = {"image_shape": (16, 16), "pixel_mm": 3.0, "measured": measured, "missing": "square"}
    missing = ~make_operator("inpainting", **options).mask
    rows, columns = missing.any(dim=1), missing.any(dim=0)
    assert int(rows.sum()) == int(columns.sum()) == side
    assert int(missing.sum()) == side**2
    if side:
        assert abs(float(missing.nonzero().double().mean()) - 7.5) <= 0.5


def test_a_square_that_leaves_no_pixels_and_other_patterns_are_refused():
    options = {"image_shape": (16, 8), "pixel_mm": 3.0}
    with pytest.raises(InputError, match=r"measured: got 0\.25, expected more: a square of 10 x 10 missing pixels"):
        make_operator("inpainting", **options, measured=0.25, missing="square")
    with pytest.raises(InputError, match="missing: got 'left', expected one of random, square"):
        make_operator("inpainting", **options, missing="left")


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_listed_for_an_operator_is_what_changes_it(name):
    scan = {"views": 3, "angle_range": 120.0 if name == "limited_angle" else 200.0}
    other = {"views": 4, "angle_range": 110.0 if name == "limited_angle" else 220.0, "detectors": 7, "pitch_mm": 2.5}
    other |= {"source_mm": 80.0, "detector_mm": 60.0, "blur_mm": 2.0, "measured": 0.7, "missing": "square"}
    options = {"image_shape": (8, 8), "pixel_mm": 3.0}
    plain = make_operator(name, **options, **scan).describe()
    changing = {key for key in other if make_operator(name, **options, **scan | {key: other[key]}).describe() != plain}
    assert changing == set(OPERATORS[name])


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_an_impossible_share_of_pixels_is_refused(share):
    with pytest.raises(InputError, match="measured: got"):
        make_operator("inpainting", image_shape=(16, 12), pixel_mm=3.0, measured=share)
