from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import avg_pool3d

from klip_monai.errors import InputError
from klip_monai.evaluation import SliceStack, VolumeStars, VolumeTumours
from klip_monai.standard import PriorGrid

GRID = PriorGrid((96, 96), 2.0, body_hu=-140.0)
MAKERS = [VolumeTumours(radius_mm=(12, 16)), VolumeStars(radius_mm=(12, 16))]


def torso(*, slice_mm: float, length_mm: float = 60.0) -> SliceStack:
    """Fat with a liver of 100 HU in it, 120 mm across, with grain."""
    axis = torch.arange(96) - 47.5
    radius = GRID.pixel_mm * torch.hypot(axis[:, None], axis)[None]
    hu = torch.where(radius < 60, 100.0, torch.where(radius < 90, -100.0, -160.0))
    slices = round(length_mm / slice_mm)
    body = (radius < 90).expand(slices, 1, 96, 96)
    grain = 5 * torch.randn(slices, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    return SliceStack((hu + grain * body + 160) / 200 - 1, body, GRID, slice_mm)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def extent_mm(mask: torch.Tensor, scan: SliceStack) -> list[float]:
    """Sides of the box around a mask."""
    return [mm * (np.ptp(at) + 1) for mm, at in zip(scan.spacing_mm, np.nonzero(mask[:, 0].numpy()), strict=True)]


@pytest.mark.parametrize("slice_mm", [1.0, 4.0])
def test_a_tumour_is_an_ellipsoid_in_mm_whatever_the_distance_of_slices(slice_mm):
    scan = torso(slice_mm=slice_mm)
    volumes, heights = [], []
    for seed in range(12):
        _, mask = VolumeTumours(radius_mm=(16, 16))(scan, rng(seed))
        along, *across = extent_mm(mask, scan)
        assert 2 * 0.6 * 16 - 2 * slice_mm <= along <= 2 * 16 + 2 * slice_mm
        assert max(across) <= 2 * 16 + 2 * GRID.pixel_mm
        # Of an ellipsoid with these sides the volume is pi / 6 of the box's, but for dents and bulges.
        box = (along - slice_mm / 2) * (across[0] - 1) * (across[1] - 1)
        volumes.append(float(mask.sum()) * slice_mm * GRID.pixel_mm**2 / box)
        heights.append(along)
    assert np.mean(volumes) == pytest.approx(np.pi / 6, rel=0.15)
    assert np.mean(heights) == pytest.approx(2 * 0.8 * 16, rel=0.15)


def test_a_star_shrinks_to_a_point_up_and_down_the_scan():
    scan = torso(slice_mm=1.0)
    for seed in range(6):
        ill, mask = VolumeStars(radius_mm=(16, 16))(scan, rng(seed))
        areas = mask.sum(dim=(1, 2, 3))
        shown = torch.nonzero(areas)[:, 0]
        assert 0.55 * 16 <= len(shown) / 2 <= 16 + 1
        assert torch.equal(shown, torch.arange(int(shown[0]), int(shown[-1]) + 1)), "no slice in between is left out"
        # A pyramid up and one down: a third of the widest section, times the height.
        assert float(areas.sum()) == pytest.approx(float(areas.max()) * len(shown) / 3, rel=0.2)
        assert int(areas.argmax()) == pytest.approx(float(shown.float().mean()), abs=2)
        assert float(ill[mask].max()) >= (160 + 160) / 200 - 1


def test_a_tumour_has_its_contrast_and_keeps_the_texture():
    scan = torso(slice_mm=2.0)
    for seed in range(8):
        ill, mask = VolumeTumours(radius_mm=(14, 16), contrast_hu=(30, 40))(scan, rng(seed))
        change = 200 * (ill - scan.images)
        core = avg_pool3d(mask.float()[:, 0][None, None], 3, stride=1, padding=1)[0, 0][:, None] > 0.999
        assert 28 <= float(change[core].abs().min()) <= float(change[core].abs().max()) <= 41
        assert float(change[core].std()) < 1, "the grain is as it was"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("slice_mm", [1.0, 5.0])
def test_nothing_changes_beyond_the_soft_edge(make, slice_mm):
    scan = torso(slice_mm=slice_mm)
    for seed in range(6):
        ill, mask = make(scan, rng(seed))
        assert not (mask & ~scan.body).any()
        changed = ill != scan.images
        away_mm = ndimage.distance_transform_edt(~mask[:, 0].numpy(), sampling=scan.spacing_mm)
        assert changed.any()
        assert away_mm[changed[:, 0].numpy()].max() <= 2 + np.linalg.norm(scan.spacing_mm), (
            "2 mm, and half a voxel to either side"
        )
        assert not changed.flatten(1).any(dim=1).all(), "slices that are left as they are"


@pytest.mark.parametrize("make", MAKERS)
def test_a_lesion_follows_from_its_seed(make):
    first, again, other = (make(torso(slice_mm=3.0), rng(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("make", MAKERS)
def test_a_lesion_fits_into_the_scan_or_there_is_none(make):
    assert make(torso(slice_mm=2.0, length_mm=14.0), rng()) is None, "too short a scan"
    scan = torso(slice_mm=2.0)
    air = SliceStack(torch.full_like(scan.images, -1.0), torch.zeros_like(scan.body), GRID, 2.0)
    assert make(air, rng()) is None
    _, mask = make(torso(slice_mm=2.0, length_mm=30.0), rng())
    ends = mask.flatten(1).any(dim=1)[[0, -1]]
    assert not ends.all()


def test_slices_of_other_shapes_and_no_distance_are_refused():
    scan = torso(slice_mm=2.0)
    with pytest.raises(InputError, match=r"slices and body: got shapes .*\(30, 1, 96, 96\) of both"):
        SliceStack(scan.images, scan.body[:2], GRID, 2.0)
    with pytest.raises(InputError, match="slice_mm: got 0"):
        SliceStack(scan.images, scan.body, GRID, 0.0)
