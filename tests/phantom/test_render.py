from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from klip_monai.phantom import PHASES, Organ, add_lesions, axial_affine, random_anatomy, render

SHAPE, SPACING = (80, 56, 36), (5.0, 5.0, 8.0)
AFFINE = axial_affine(SHAPE, spacing=SPACING)


def scan(seed: int = 3, *, phase: str | None = None, noise_hu: float | None = 0.0):
    return render(random_anatomy(seed, phase=phase), AFFINE, shape=SHAPE, noise_hu=noise_hu)


def test_a_scan_is_a_volume_on_the_given_grid():
    result = scan()
    assert result.image.shape == (1, *SHAPE)
    assert result.image.dtype == torch.float32
    assert np.array_equal(np.asarray(result.image.affine), AFFINE)
    assert result.organs.shape == result.lesions.shape == SHAPE
    assert (result.organs.dtype, result.lesions.dtype) == (np.uint8, np.bool_)


def test_same_seed_gives_the_same_bits_noise_included():
    first, again = (scan(noise_hu=None) for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert np.array_equal(first.organs, again.organs)
    assert not torch.equal(first.image, scan(4, noise_hu=None).image)


def test_every_organ_is_there():
    found = set()
    for seed in range(4):  # one in four has no gallbladder
        organs = scan(seed).organs
        sizes = np.bincount(organs.ravel(), minlength=len(Organ))
        assert (np.delete(sizes, Organ.GALLBLADDER) > 20).all(), seed
        found |= set(np.unique(organs).tolist())
    assert found == {int(organ) for organ in Organ}


def test_organs_lie_on_the_side_and_height_they_belong_to():
    result = scan()
    right, anterior, superior = np.einsum("ij,j...->i...", AFFINE[:3, :3], np.indices(SHAPE)) + AFFINE[:3, 3].reshape(
        3, 1, 1, 1
    )

    def centre(organ: Organ) -> np.ndarray:
        at = result.organs == organ
        return np.array([right[at].mean(), anterior[at].mean(), superior[at].mean()])

    assert centre(Organ.LIVER)[0] > 30
    assert centre(Organ.SPLEEN)[0] < -50
    assert centre(Organ.STOMACH)[0] < 0
    assert centre(Organ.VENA_CAVA)[0] > centre(Organ.AORTA)[0] + 15
    assert centre(Organ.VERTEBRA)[1] < centre(Organ.AORTA)[1] < centre(Organ.STOMACH)[1]
    assert centre(Organ.BOWEL)[2] < centre(Organ.LIVER)[2]
    assert np.abs(right[result.organs > 0]).max() < 199, "the body touches the edge of the grid"


@pytest.mark.parametrize("phase", PHASES)
def test_organs_have_the_hu_of_the_patient(phase):
    anatomy = random_anatomy(3, phase=phase)
    result = render(anatomy, AFFINE, shape=SHAPE, noise_hu=0)
    image = result.image[0].numpy()

    def median(organ: Organ) -> float:
        return float(np.median(image[result.organs == organ]))

    assert median(Organ.AIR) == -1000
    for organ, name in ((Organ.LIVER, "liver"), (Organ.SPLEEN, "spleen"), (Organ.AORTA, "aorta")):
        assert median(organ) == pytest.approx(anatomy.hu[name], abs=4)
    assert median(Organ.FAT) == pytest.approx(anatomy.hu["fat"], abs=8)
    assert median(Organ.MUSCLE) == pytest.approx(anatomy.hu["muscle"], abs=8)
    assert median(Organ.VERTEBRA) > 100
    assert image.min() == -1000
    assert image.max() <= 610


def test_part_of_a_volume_is_a_slice_of_the_whole():
    whole, low, shape = scan(), (10, 7, 5), (40, 30, 9)
    part_affine = AFFINE.copy()
    part_affine[:3, 3] = (AFFINE @ [*low, 1])[:3]
    part = render(random_anatomy(3), part_affine, shape=shape, noise_hu=0)
    box = tuple(slice(lo, lo + n) for lo, n in zip(low, shape, strict=True))
    np.testing.assert_allclose(part.image[0].numpy(), whole.image[0].numpy()[box], atol=0.5)
    assert np.mean(part.organs != whole.organs[box]) < 1e-4


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1), (2, 1, 0)])
def test_any_order_and_direction_of_axes_scans_the_same_patient(order):
    shape, anatomy = (48, 40, 24), add_lesions(random_anatomy(3), seed=1, radius_mm=(15, 18))
    affine = axial_affine(shape, spacing=(7.0, 7.0, 7.0), centre=(0, 0, 10))
    straight = render(anatomy, affine, shape=shape, noise_hu=0)
    turned_shape = tuple(shape[axis] for axis in order)
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = turned_shape[0] - 1
    turned = render(anatomy, affine[:, [*order, 3]] @ flip, shape=turned_shape, noise_hu=0)
    for name in ("organs", "lesions"):
        assert np.mean(getattr(turned, name)[::-1] != getattr(straight, name).transpose(order)) < 1e-4
    difference = turned.image[0].numpy()[::-1] - straight.image[0].numpy().transpose(order)
    assert np.abs(difference).max() < 0.5


def test_an_oblique_scan_shows_at_each_point_what_an_axial_one_does():
    anatomy, shape, spacing = random_anatomy(3), (36, 30, 4), (9.0, 9.0, 9.0)
    turn = Rotation.from_euler("xyz", (25, -15, 20), degrees=True).as_matrix()
    oblique_affine = axial_affine(shape, spacing=spacing, centre=(20, 5, 20), rotation=turn)
    oblique = render(anatomy, oblique_affine, shape=shape, noise_hu=0)
    rng = np.random.default_rng(0)
    inside = np.argwhere(oblique.organs > 0)
    for index in inside[rng.choice(len(inside), 60, replace=False)]:
        probe = axial_affine((2, 2, 1), spacing=spacing)
        probe[:3, 3] = (oblique_affine @ [*index, 1])[:3]
        axial = render(anatomy, probe, shape=(2, 2, 1), noise_hu=0)
        assert float(axial.image[0, 0, 0, 0]) == pytest.approx(float(oblique.image[0][tuple(index)]), abs=0.5)
        assert axial.organs[0, 0, 0] == oblique.organs[tuple(index)]


def test_noise_has_the_asked_size_and_is_independent_between_slices():
    clean, noisy = (scan(noise_hu=sd).image[0].numpy() for sd in (0.0, 10.0))
    noise = noisy - clean
    assert noise.std() == pytest.approx(10, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=0.5)
    assert np.corrcoef(noise[:, :, 3].ravel(), noise[:, :, 4].ravel())[0, 1] == pytest.approx(0, abs=0.1)
    drawn = [float((scan(seed, noise_hu=None).image - scan(seed).image).std()) for seed in range(4)]
    assert all(3.9 < sd < 14.1 for sd in drawn)
    assert np.ptp(drawn) > 0.5


def test_noise_off_is_free_of_noise_on_any_grid():
    at = axial_affine((1, 1, 2), spacing=SPACING, centre=(60.0, 10.0, 40.0))
    one = render(random_anatomy(3), at, shape=(1, 1, 2), noise_hu=0)
    assert torch.isfinite(one.image).all()


def lesion_scan(seed: int, *, radius: float, contrast: float, voxel: float = 2.0, side: int = 40):
    """A patient with one lesion, and its scan in small voxels around the lesion."""
    ill = add_lesions(random_anatomy(seed), seed=seed, radius_mm=(radius, radius), contrast_hu=(contrast, contrast))
    x, y, z = ill.lesions[0].shape.centre
    affine = axial_affine((side,) * 3, spacing=(voxel,) * 3, centre=(-x, -y, z))
    return ill, affine, render(ill, affine, shape=(side,) * 3, noise_hu=0)


@pytest.mark.parametrize("seed", range(4))
def test_a_lesion_lies_in_the_liver_and_changes_nothing_else(seed):
    anatomy, affine, ill = lesion_scan(seed, radius=14, contrast=60)
    healthy = render(random_anatomy(seed), affine, shape=ill.lesions.shape, noise_hu=0)
    mask, contrast = ill.lesions, anatomy.lesions[0].contrast
    assert mask.sum() > 100
    assert not healthy.lesions.any()
    assert set(np.unique(healthy.organs[mask])) <= {Organ.LIVER, Organ.VESSEL}
    assert np.array_equal(healthy.organs, ill.organs)
    change = (ill.image - healthy.image)[0].numpy()
    liver = healthy.organs == Organ.LIVER
    assert np.median(change[mask & liver]) == pytest.approx(contrast, abs=4)
    assert np.median(ill.image[0].numpy()[mask]) == pytest.approx(anatomy.hu["liver"] + contrast, abs=4)
    assert not change[~np.isin(healthy.organs, (Organ.LIVER, Organ.VESSEL))].any()
    # Voxels cut by the lesion's surface share in its contrast, up to half when they are not of the mask.
    assert np.abs(change[~mask & liver]).max() <= abs(contrast) / 2 + 8


def test_a_lesion_that_reaches_out_of_the_liver_is_cut_at_its_surface():
    anatomy, affine, _ = lesion_scan(0, radius=14, contrast=60)
    (lesion,) = anatomy.lesions
    shape = replace(lesion.shape, radii=4 * lesion.shape.radii)
    ill = render(replace(anatomy, lesions=(replace(lesion, shape=shape),)), affine, shape=(40, 40, 40), noise_hu=0)
    healthy = render(random_anatomy(0), affine, shape=(40, 40, 40), noise_hu=0)
    liver = np.isin(healthy.organs, (Organ.LIVER, Organ.VESSEL))
    assert 0.2 < liver.mean() < 0.95
    assert not ill.lesions[~liver].any()
    assert not (ill.image - healthy.image)[0].numpy()[~liver].any()
    assert ill.lesions[liver].mean() > 0.9


@pytest.mark.parametrize("radius", [5.0, 10.0, 18.0])
def test_lesions_are_about_as_large_as_asked(radius):
    found = []
    for seed in range(5):
        voxel = radius / 7
        _, _, ill = lesion_scan(seed, radius=radius, contrast=40, voxel=voxel, side=28)
        found.append((ill.lesions.sum() * voxel**3 * 3 / (4 * np.pi)) ** (1 / 3))
    assert np.mean(found) == pytest.approx(radius, rel=0.2)
    assert 0.6 * radius < min(found) <= max(found) < 1.35 * radius
