from __future__ import annotations

import json
import math

import numpy as np
import pytest

from klip_monai.errors import InputError
from klip_monai.physics import FanBeam, ParallelBeam


def test_angles_leave_the_endpoint_out():
    geometry = ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=4)
    np.testing.assert_allclose(geometry.angles, [0, 45, 90, 135])


def test_limited_angle_views_are_the_first_views_of_the_full_scan():
    full = ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=12, start_angle=7.0)
    limited = ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=6, angle_range=90.0, start_angle=7.0)
    np.testing.assert_allclose(limited.angles, full.angles[:6])


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (5, 12), (300, 300)])
@pytest.mark.parametrize("pitch", [None, 0.5, 2.0])
def test_default_detector_covers_the_diagonal_with_the_parity_of_the_columns(shape, pitch):
    geometry = ParallelBeam(image_shape=shape, pixel_mm=0.7, views=3, detector_pitch_mm=pitch)
    views, detectors = geometry.sinogram_shape
    diagonal = 0.7 * math.hypot(*shape)
    assert views == 3
    assert diagonal <= detectors * geometry.pitch_mm + 1e-6 < diagonal + 2 * geometry.pitch_mm + 1e-6
    assert detectors % 2 == shape[1] % 2
    assert geometry.pitch_mm == (pitch or 0.7)


def test_repr_pastes_back_and_equal_values_are_equal():
    geometry = ParallelBeam(image_shape=(8, 9), pixel_mm=1.5, views=5, angle_range=120, start_angle=-3)
    assert eval(repr(geometry)) == geometry
    assert hash(eval(repr(geometry))) == hash(geometry)


def test_description_survives_json():
    description = ParallelBeam(image_shape=(8, 9), pixel_mm=1.5, views=5).describe()
    assert json.loads(json.dumps(description)) == description


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": (8,)}, r"image_shape: got \(8,\), expected \(H, W\)"),
        ({"image_shape": (8, 0)}, r"image_shape: got \(8, 0\)"),
        ({"image_shape": (8, 2.5)}, r"image_shape: got \(8, 2.5\)"),
        ({"image_shape": 8}, "image_shape: got 8"),
        ({"pixel_mm": 0}, "pixel_mm: got 0, expected a finite number above 0"),
        ({"pixel_mm": "wide"}, "pixel_mm: got 'wide'"),
        ({"views": 0}, "views: got 0, expected a positive integer"),
        ({"views": 2.5}, "views: got 2.5"),
        ({"angle_range": 0}, "angle_range: got 0, expected a finite number above 0 and at most 360"),
        ({"angle_range": 361.0}, "angle_range: got 361.0"),
        ({"start_angle": math.nan}, "start_angle: got nan, expected a finite number"),
        ({"detectors": -1}, "detectors: got -1, expected a positive integer"),
        ({"detector_pitch_mm": -1.0}, "detector_pitch_mm: got -1.0"),
    ],
)
def test_bad_values_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message) as caught:
        ParallelBeam(**({"image_shape": (8, 8), "pixel_mm": 1.0, "views": 4} | change))
    assert "\n" not in str(caught.value)


FAN = {"image_shape": (40, 30), "pixel_mm": 1.2, "views": 6, "source_mm": 100.0, "detector_mm": 50.0}


def test_default_fan_detector_just_covers_the_image_and_magnifies_a_pixel():
    geometry = FanBeam(**FAN)
    radius = 0.6 * math.hypot(40, 30)
    assert geometry.pitch_mm == pytest.approx(1.2 * 1.5)
    assert 0 <= geometry.fan_angle - 2 * math.degrees(math.asin(radius / 100)) < 2
    assert geometry.angle_range == 360
    assert eval(repr(geometry)) == geometry
    assert json.loads(json.dumps(geometry.describe())) == geometry.describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_mm": 29.0}, "source_mm: got 29, expected more than half the image's diagonal, 30 mm"),
        ({"source_mm": -1.0}, "source_mm: got -1.0"),
        ({"detector_mm": -1.0}, "detector_mm: got -1, expected 0 or more"),
        ({"views": 0}, "views: got 0"),
    ],
)
def test_impossible_fans_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        FanBeam(**{**FAN, **change})


def test_listed_angles_take_the_place_of_evenly_spaced_ones():
    geometry = FanBeam(**{**FAN, "views": 0}, view_angles=[30.0, -5, 100.5])
    np.testing.assert_array_equal(geometry.angles, [30, -5, 100.5])
    assert (geometry.views, geometry.start_angle, geometry.angle_range) == (3, -5, 105.5)
    assert eval(repr(geometry)) == geometry
    assert hash(eval(repr(geometry))) == hash(geometry)
    assert json.loads(json.dumps(geometry.describe())) == geometry.describe()
    assert geometry.describe()["view_angles"] == [30, -5, 100.5]


def test_descriptions_of_what_has_neither_angles_nor_offset_are_what_they_were():
    names = {"type", "image_shape", "pixel_mm", "views", "angle_range", "start_angle", "detectors", "detector_pitch_mm"}
    assert set(ParallelBeam(image_shape=(8, 9), pixel_mm=1.5, views=5).describe()) == names
    assert set(FanBeam(**FAN).describe()) == names | {"source_mm", "detector_mm"}


def test_a_shifted_detector_still_covers_the_image():
    centred, shifted = FanBeam(**FAN), FanBeam(**FAN, detector_offset_mm=-7.0)
    assert shifted.detectors * shifted.pitch_mm >= centred.detectors * centred.pitch_mm + 14 - 2 * shifted.pitch_mm
    assert shifted.describe()["detector_offset_mm"] == -7.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view_angles": ()}, r"view_angles: got \(\), expected a list of at least one angle"),
        ({"view_angles": "12"}, "view_angles: got '12'"),
        ({"view_angles": (0.0, math.inf), "views": 2}, r"view_angles\[1\]: got inf"),
        ({"view_angles": (0.0, 1.0)}, "views: got 6 with 2 view_angles"),
        ({"detector_offset_mm": math.nan}, "detector_offset_mm: got nan"),
    ],
)
def test_impossible_angles_and_offsets_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        FanBeam(**{**FAN, **change})
