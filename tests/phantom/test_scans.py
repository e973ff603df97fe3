from __future__ import annotations

import numpy as np
import pytest
import torch

from klip_monai.phantom import Organ, PhantomSlices, axial_affine, random_scan
from klip_monai.standard import PriorGrid, standard_slices


def test_axial_affine_is_centred_and_runs_left_posterior_superior():
    shape, spacing, centre = (10, 7, 4), (2.0, 3.0, 5.0), (11.0, -4.0, 30.0)
    affine = axial_affine(shape, spacing=spacing, centre=centre)
    np.testing.assert_allclose(affine[:3, :3], np.diag([-2.0, -3.0, 5.0]))
    np.testing.assert_allclose((affine @ [4.5, 3, 1.5, 1])[:3], centre)


def test_axial_affine_can_be_turned_about_its_centre():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    affine = axial_affine((10, 7, 4), spacing=(2.0, 3.0, 5.0), centre=(1.0, 2.0, 3.0), rotation=quarter)
    np.testing.assert_allclose(affine[:3, 0], [0, -2, 0], atol=1e-12)
    np.testing.assert_allclose((affine @ [4.5, 3, 1.5, 1])[:3], [1, 2, 3])


@pytest.fixture(scope="module")
def pair():
    return random_scan(11, slices=5), random_scan(11, slices=5, lesion=True)


def test_same_seed_is_the_same_scan(pair):
    again = random_scan(11, slices=5)
    assert torch.equal(again.image, pair[0].image)
    assert np.array_equal(np.asarray(again.image.affine), np.asarray(pair[0].image.affine))
    assert not np.array_equal(np.asarray(random_scan(12, slices=2).image.affine), np.asarray(again.image.affine))


def test_healthy_scans_have_no_lesion_and_lesions_change_only_the_liver(pair):
    healthy, ill = pair
    assert not healthy.lesions.any()
    assert ill.lesions.any()
    assert np.array_equal(healthy.organs, ill.organs)
    changed = np.abs((healthy.image - ill.image)[0].numpy()) > 1e-3
    assert set(np.unique(healthy.organs[changed])) <= {Organ.LIVER, Organ.VESSEL}


def test_scanner_settings_stay_within_their_ranges():
    for seed in range(4):
        scan = random_scan(seed, slices=2, slice_mm=(4.0, 6.0))
        x, y, z = np.linalg.norm(np.asarray(scan.image.affine)[:3, :3], axis=0)
        assert x == pytest.approx(y)
        assert 1.6 <= x <= 2.6
        assert 4.0 <= z <= 6.0
        assert scan.image.shape[3] == 2
        assert scan.image.shape[1] * x >= 399.9, "the field of view holds any patient"


def test_training_slices_are_the_standard_slices_of_the_patients():
    shape, pixel_mm = (32, 32), 12.0
    data = PhantomSlices(2, slices=2, seed=7, image_shape=shape, pixel_mm=pixel_mm)
    assert len(data) == 4
    for patient in (0, 1):
        expected = standard_slices(random_scan(7 + patient, slices=2).image, PriorGrid(shape, pixel_mm)).images
        for z in (0, 1):
            image = data[2 * patient + z]["image"]
            assert image.dtype == torch.float32
            assert float(image.min()) >= -1
            assert float(image.max()) <= 1
            torch.testing.assert_close(image, expected[z], rtol=0, atol=1e-3)
