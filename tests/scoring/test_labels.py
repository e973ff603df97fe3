from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from klip_monai.scoring import LABEL_NAMES, islands, threshold_heatmap


def cubes(*specs: tuple[tuple[int, int, int], int, float]) -> np.ndarray:
    """A heat map with cubes of (corner, side, value)."""
    heatmap = np.zeros((24, 22, 20), np.float32)
    for (x, y, z), side, value in specs:
        heatmap[x : x + side, y : y + side, z : z + side] = value
    return heatmap


def test_thresholds_count_from_their_own_value_on():
    heatmap = np.array([[[0.0, 0.999, 1.0, 1.5, 2.0, 9.0]]], np.float32)
    labels = threshold_heatmap(heatmap, suspicious=1.0, strong=2.0, voxel_ml=1.0)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[[0, 0, 1, 1, 2, 2]]]
    assert set(LABEL_NAMES) == {0, 1, 2}


def test_equal_thresholds_are_allowed_and_reversed_ones_refused():
    heatmap = cubes(((2, 2, 2), 3, 1.0))
    assert set(np.unique(threshold_heatmap(heatmap, suspicious=1.0, strong=1.0, voxel_ml=1.0))) == {0, 2}
    with pytest.raises(ValueError, match=r"strong: got 0\.5, expected at least suspicious \(1\.0\)"):
        threshold_heatmap(heatmap, suspicious=1.0, strong=0.5, voxel_ml=1.0)


def test_islands_below_the_smallest_volume_become_background():
    heatmap = cubes(((1, 1, 1), 2, 1.0), ((8, 8, 8), 3, 2.0), ((15, 15, 12), 4, 1.0))  # 8, 27 and 64 voxels
    for min_ml, kept in ((0.0, (8, 27, 64)), (0.8, (8, 27, 64)), (0.81, (27, 64)), (2.8, (64,)), (6.5, ())):
        labels = threshold_heatmap(heatmap, suspicious=1.0, strong=2.0, voxel_ml=0.1, min_ml=min_ml)
        assert int((labels > 0).sum()) == sum(kept), min_ml
    labels = threshold_heatmap(heatmap, suspicious=1.0, strong=2.0, voxel_ml=0.1, min_ml=2.0)
    assert int((labels == 2).sum()) == 27, "labels of islands that stay must not change"


def test_an_island_is_measured_with_both_its_labels_together():
    heatmap = cubes(((4, 4, 4), 4, 1.0), ((5, 5, 5), 1, 3.0))
    labels = threshold_heatmap(heatmap, suspicious=1.0, strong=2.0, voxel_ml=1.0, min_ml=64)
    assert int((labels == 2).sum()) == 1
    assert int((labels == 1).sum()) == 63


def test_voxels_that_touch_at_a_corner_are_one_island():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = labels[2, 2, 2] = 1
    assert [count for count, *_ in islands(labels, voxel_ml=1.0)] == [2]


def test_a_small_island_inside_the_box_of_a_large_one_is_told_apart():
    labels = np.zeros((12, 12, 3), np.uint8)
    labels[1:11, 1:11, 1] = 1
    labels[3:9, 3:9, 1] = 0
    labels[5, 5, 1] = 1
    heatmap = labels.astype(np.float32)
    kept = threshold_heatmap(heatmap, suspicious=1.0, strong=2.0, voxel_ml=1.0, min_ml=2.0)
    assert kept[5, 5, 1] == 0
    assert int(kept.sum()) == 64


def test_islands_come_largest_first_with_box_volume_and_mask():
    labels = (cubes(((1, 1, 1), 2, 1.0), ((8, 8, 8), 3, 2.0), ((15, 15, 12), 4, 1.0)) > 0).astype(np.uint8)
    found = islands(labels, voxel_ml=0.25)
    assert [count for count, *_ in found] == [64, 27, 8]
    assert [volume for _, _, volume, _ in found] == [16.0, 6.75, 2.0]
    assert found[0][1] == (slice(15, 19), slice(15, 19), slice(12, 16))
    rebuilt = np.zeros_like(labels)
    for count, box, _, inside in found:
        assert int(inside.sum()) == count
        rebuilt[box][inside] = 1
    assert np.array_equal(rebuilt, labels)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("seed", range(6))
def test_islands_are_those_of_the_whole_grid_in_the_same_order(seed, order):
    rng = np.random.default_rng(seed)
    labels = np.zeros((20, 18, 16), np.uint8, order=order)
    corner, end = rng.integers(0, 8, 3), rng.integers(9, 17, 3)  # the border of the grid among them
    box = tuple(slice(*ends) for ends in zip(corner, end, strict=True))
    labels[box] = rng.choice([0, 0, 0, 0, 0, 0, 1, 2], labels[box].shape) * (seed > 0)
    parts, n = ndimage.label(labels > 0, np.ones((3, 3, 3)))
    sizes = [int((parts == number).sum()) for number in range(1, n + 1)]
    expected = sorted(range(1, n + 1), key=lambda number: -sizes[number - 1])
    found = islands(labels, voxel_ml=0.5)
    assert len(found) == n
    for number, (count, placed, volume, inside) in zip(expected, found, strict=True):
        assert (count, volume) == (sizes[number - 1], sizes[number - 1] * 0.5)
        assert placed == ndimage.find_objects(parts)[number - 1]
        np.testing.assert_array_equal(inside, parts[placed] == number)


def test_random_labels_are_covered_by_their_islands_once():
    labels = (ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((16, 16, 16)), 1) > 0.3).astype(np.uint8)
    found = islands(labels, voxel_ml=1.0)
    assert sum(count for count, *_ in found) == int(labels.sum())
    counts = [count for count, *_ in found]
    assert counts == sorted(counts, reverse=True)


def test_an_empty_map_has_no_islands():
    assert islands(np.zeros((3, 3, 3), np.uint8), voxel_ml=1.0) == []
    assert not threshold_heatmap(np.zeros((3, 3, 3)), suspicious=1.0, strong=2.0, voxel_ml=1.0, min_ml=1.0).any()
