from __future__ import annotations

import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.evaluation import Stars, StudySlices, Tumours, with_anomalies
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
