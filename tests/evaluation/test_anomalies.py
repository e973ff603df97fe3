from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from klip_monai.errors import InputError
from klip_monai.evaluation import Stars, StudySlices, Tumours, with_anomalies
from klip_monai.evaluation.anomalies import ANOMALIES, BlurPatch, Calcifications, MetalStreaks, NoisePatch
from klip_monai.standard import PriorGrid

GRID = PriorGrid((128, 128), 3.0, body_hu=-140.0)


@pytest.fixture
def torso() -> tuple[torch.Tensor, torch.Tensor]:
    """Fat with a large round liver of 100 HU in it."""
    axis = torch.arange(128) - 63.5
    radius = torch.hypot(axis[:, None], axis)[None]
    hu = torch.where(radius < 36, 100.0, torch.where(radius < 50, -100.0, -160.0))
    return (hu + 160) / 200 - 1, radius < 50


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_tumour_differs_from_its_organ_by_what_was_asked_for_and_changes_nothing_else(torso):
    image, body = torso
    for seed in range(20):
        ill, mask = Tumours(radius_mm=(12, 20), contrast_hu=(50, 60))(image, body, GRID, rng(seed))
        change = 200 * (ill - image)
        core = torch.nn.functional.avg_pool2d(mask.float(), 3, stride=1, padding=1) == 1
        assert 49 <= float(change[core].abs().min()) <= float(change[core].abs().max()) <= 61
        far = torch.nn.functional.max_pool2d(mask.float(), 7, stride=1, padding=3) == 0
        assert float(change[far].abs().max()) < 1
        assert (image[mask] == image.max()).all(), "within the liver"


def test_a_tumour_has_the_radius_asked_for(torso):
    radii = []
    for seed in range(30):
        _, mask = Tumours(radius_mm=(18, 18))(*torso, GRID, rng(seed))
        rows, columns = np.nonzero(mask[0].numpy())
        radii.append(3.0 * max(np.ptp(rows), np.ptp(columns)) / 2)
    assert max(radii) <= 20
    assert np.mean(radii) > 13


def test_stars_are_bright_and_lie_in_the_body(torso):
    image, body = torso
    for seed in range(20):
        ill, mask = Stars()(image, body, GRID, rng(seed))
        assert not (mask & ~body).any()
        assert float(ill[mask].max()) >= (160 + 160) / 200 - 1 - 1e-3
        assert int(mask.sum()) > 3


@pytest.mark.parametrize("name", ANOMALIES)
def test_every_anomaly_stays_in_its_mask_and_in_the_window_and_follows_its_seed(torso, name):
    image, body = torso
    add = ANOMALIES[name]()
    results = [add(image, body, GRID, rng(seed)) for seed in (3, 3, 4)]
    assert all(result is not None for result in results)
    (ill, mask), again, other = results
    assert mask.any()
    assert not (mask & ~body).any()
    assert float(ill.abs().max()) <= 1
    changed = (ill - image).abs()
    assert float(changed[mask].mean()) > 5 * float(changed[~mask].mean())
    assert torch.equal(ill, again[0])
    assert not torch.equal(ill, other[0])


def test_calcifications_reach_the_top_of_the_window(torso):
    ill, mask = Calcifications(count=(3, 3), radius_mm=(4, 6))(*torso, GRID, rng(0))
    assert float(ill[mask].max()) == 1
    assert scipy.ndimage.label(mask[0].numpy())[1] <= 3


def test_metal_casts_dark_and_bright_streaks_away_from_itself():
    # An ellipse: in a disc, beams along its long axis are no longer than others and nothing hardens more one way.
    rows, columns = torch.meshgrid(torch.arange(128) - 63.5, torch.arange(128) - 63.5, indexing="ij")
    body = (rows / 30).square() + (columns / 55).square() < 1
    image = torch.where(body, 0.1, -1.0)[None]
    ill, mask = MetalStreaks(radius_mm=(6, 6), streak_hu=(100, 100))(image, body[None], GRID, rng(1))
    change = 200 * (ill - image)[body[None]]
    assert float(change.max()) > 100, "the metal"
    assert float(change.min()) < -30
    rest = (ill - image).abs()[~mask & body[None]]
    assert 200 * float(rest.max()) < 20


def test_a_blurred_disc_loses_detail_and_keeps_its_mean(torso):
    image, body = torso
    grain = 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    rough = (image + grain * body).clamp(-1, 1)
    ill, mask = BlurPatch(radius_mm=(20, 20))(rough, body, GRID, rng(1))
    assert float(ill[mask].std()) < float(rough[mask].std())
    assert torch.equal(ill[~body], rough[~body])


def test_a_noisy_disc_has_the_noise_asked_for():
    image = torch.zeros(1, 128, 128)
    body = torch.ones_like(image, dtype=torch.bool)
    ill, mask = NoisePatch(radius_mm=(60, 60), noise_hu=(40, 40))(image, body, GRID, rng(0))
    assert 200 * float(ill[mask].std()) == pytest.approx(40, rel=0.2)


def test_a_slice_without_room_gets_no_anomaly(torso):
    image, body = torso
    air = torch.full_like(image, -1.0)
    assert Tumours()(air, body, GRID, rng()) is None
    assert Stars(radius_mm=(200, 210))(image, body, GRID, rng()) is None


def test_slices_without_room_are_passed_over_and_the_same_seed_makes_the_same(torso):
    image, body = torso
    images = torch.stack([image, torch.full_like(image, -1.0), image])
    slices = StudySlices(images, torch.zeros_like(images, dtype=torch.bool), torch.stack([body] * 3), ("a", "b", "c"))
    first, again = (with_anomalies(slices, Tumours(), grid=GRID, seed=5) for _ in range(2))
    assert first.patients == ("a", "c")
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.masks[0], first.masks[1]), "each slice has its own"
    empty = StudySlices(images[1:2], slices.masks[1:2], slices.body[1:2], ("b",))
    with pytest.raises(InputError, match="none of 1 has room"):
        with_anomalies(empty, Tumours(), grid=GRID, seed=0)
