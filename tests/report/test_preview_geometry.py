from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from klip_monai.report.preview_geometry import Plane, PreviewScan, first_maximum

SHAPE = (12, 10, 8)
WHOLE = (slice(None), slice(None), slice(None))


def ras_coordinate(affine: np.ndarray, axis: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A volume whose voxels hold their own R, A or S coordinate."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.asarray(nib.affines.apply_affine(affine, grid)[..., axis])


def scan_with(heatmap: np.ndarray, affine: np.ndarray) -> PreviewScan:
    return PreviewScan(np.zeros(heatmap.shape), heatmap, np.zeros(heatmap.shape, np.uint8), affine)


def storage_orders() -> list[np.ndarray]:
    """All 48 ways to store a straight scan."""
    affines = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1.0, 1.0), repeat=3):
            affine = np.zeros((4, 4))
            for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
                affine[row, column] = sign * (column + 1.0)
            affine[:, 3] = [3.0, -5.0, 7.0, 1.0]
            affines.append(affine)
    return affines


@pytest.mark.parametrize(
    ("plane", "horizontal", "vertical", "edges"),
    [
        ("axial", (0, -1), (1, 1), ("R", "L", "A", "P")),
        ("coronal", (0, -1), (2, 1), ("R", "L", "S", "I")),
        ("sagittal", (1, -1), (2, 1), ("A", "P", "S", "I")),
    ],
)
def test_pictures_run_as_their_letters_say_for_every_storage_order(
    plane: Plane, horizontal: tuple[int, int], vertical: tuple[int, int], edges: tuple[str, str, str, str]
) -> None:
    for affine in storage_orders():
        across = scan_with(ras_coordinate(affine, horizontal[0]), affine).view(plane, 1, box=WHOLE)
        upward = scan_with(ras_coordinate(affine, vertical[0]), affine).view(plane, 1, box=WHOLE)
        assert (np.sign(np.diff(across.heatmap, axis=1)) == horizontal[1]).all()
        assert (np.sign(np.diff(upward.heatmap, axis=0)) == vertical[1]).all()
        assert across.edges == edges
        np.testing.assert_allclose(np.abs(np.diff(across.heatmap, axis=1)), across.spacing[1])
        np.testing.assert_allclose(np.abs(np.diff(upward.heatmap, axis=0)), upward.spacing[0])


def test_slice_and_voxel_positions_are_ras_coordinates_with_letters() -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[:3, 3] = [4.0, 3.0, -20.0]
    heatmap = np.zeros(SHAPE)
    heatmap[2, 7, 1] = 1.0
    scan = scan_with(heatmap, affine)
    worst = scan.worst_voxel
    assert scan.ras(worst) == "R 2.0  P 4.0  I 18.0 mm"
    assert scan.view("axial", worst[2], box=WHOLE).position == "I 18.0 mm"
    assert scan.view("coronal", worst[1], box=WHOLE).position == "P 4.0 mm"
    assert scan.view("sagittal", worst[0], box=WHOLE).position == "R 2.0 mm"


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_guides_point_at_the_worst_voxel(plane: Plane) -> None:
    heatmap = np.zeros(SHAPE)
    heatmap[2, 7, 1] = 1.0
    scan = scan_with(heatmap, np.diag([-1.5, -1.0, 2.0, 1.0]))
    box = (slice(3, 12), slice(1, 9), slice(0, 6))
    worst = scan.worst_voxel
    normal = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    view = scan.view(plane, worst[normal], box=box)
    x, y = scan.picture_position(plane, worst, box=box)
    assert view.heatmap[int(y / view.spacing[0]), int(x / view.spacing[1])] == 1.0


def test_worst_slices_fall_in_value_and_keep_their_distance() -> None:
    heatmap = np.zeros((4, 4, 40))
    for index, value in ((10, 5.0), (11, 4.9), (13, 4.8), (20, 3.0), (30, 4.0)):
        heatmap[1, 1, index] = value
    scan = scan_with(heatmap, np.diag([1.0, 1.0, 2.0, 1.0]))
    assert scan.worst_axial_slices(3, separation_mm=15.0) == [10, 30, 20]
    assert scan.worst_axial_slices(3, separation_mm=4.0) == [10, 13, 30]


@pytest.mark.parametrize(
    "turn", [lambda a: a, np.asfortranarray, lambda a: a[::-1, :, ::-1], lambda a: a.transpose(2, 0, 1)]
)
@pytest.mark.parametrize("seed", range(8))
def test_first_maximum_is_that_of_argmax_whatever_the_order_in_memory(seed, turn) -> None:
    values = turn(np.random.default_rng(seed).integers(0, 2 + 20 * (seed % 2), (5, 6, 7)).astype(np.float32))
    assert first_maximum(values) == np.unravel_index(values.argmax(), values.shape)
    assert first_maximum(np.zeros_like(values)) == (0, 0, 0)


def test_body_box_is_where_more_than_half_a_per_cent_of_a_slice_is_dense() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.004, 0.005, 0.006, 0.5):
        ct = np.where(rng.random((40, 50, 20)) < share * rng.random((40, 1, 1)) * 2, 40.0, -1000.0)
        scan = PreviewScan(ct, np.zeros(ct.shape), np.zeros(ct.shape, np.uint8), np.diag([-20.0, -20.0, 20.0, 1.0]))
        for axis, part in enumerate(scan.body_box()):
            others = tuple(other for other in range(3) if other != axis)
            filled = np.flatnonzero((scan.ct > -300).mean(axis=others) > 0.005)
            low, high = (filled[0], filled[-1] + 1) if filled.size else (0, ct.shape[axis])
            assert part == slice(min(low, scan.worst_voxel[axis]), max(high, scan.worst_voxel[axis] + 1))


def test_short_scan_gives_the_slices_it_has() -> None:
    scan = scan_with(np.random.default_rng(0).random((4, 4, 2)), np.eye(4))
    assert sorted(scan.worst_axial_slices(3, separation_mm=15.0)) == [0, 1]


def test_body_box_holds_body_and_worst_voxel_and_drops_air() -> None:
    ct = np.full((60, 50, 8), -1000.0)
    ct[20:40, 15:35] = 40.0
    heatmap = np.zeros(ct.shape)
    heatmap[50, 25, 4] = 1.0
    scan = PreviewScan(ct, heatmap, np.zeros(ct.shape, np.uint8), np.diag([2.0, 2.0, 5.0, 1.0]))
    assert scan.body_box() == (slice(15, 51), slice(10, 40), slice(0, 8))


def test_tilt_is_the_angle_to_the_closest_axes() -> None:
    c, s = np.cos(np.deg2rad(14)), np.sin(np.deg2rad(14))
    turn = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    assert scan_with(np.zeros(SHAPE), np.diag([-1.0, -1.0, 3.0, 1.0])).tilt_degrees == pytest.approx(0.0)
    assert scan_with(np.zeros(SHAPE), turn @ np.diag([-1.0, -1.0, 3.0, 1.0])).tilt_degrees == pytest.approx(14.0)


def test_places_are_numbered_in_just_the_slices_that_cross_their_part_for_every_storage_order() -> None:
    for affine in storage_orders():
        labels = np.zeros(SHAPE, np.uint8)
        labels[3:6, 2:7, 1:4] = 1
        labels[9, 8, 6] = 2
        places = nib.affines.apply_affine(affine, [(4, 5, 2), (9, 8, 6), (0, 0, 0)]).tolist()
        scan = PreviewScan(np.zeros(SHAPE), labels.astype(float), labels, affine, places=places)
        box = tuple(slice(0, size) for size in scan.labels.shape)
        for plane, normal in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
            stored = int(np.argmax(np.abs(affine[normal, :3])))  # axis of the array along the normal
            first, last = ((3, 5), (2, 6), (1, 3))[stored]
            size, flipped = SHAPE[stored], affine[normal, stored] < 0
            turned = {size - 1 - n if flipped else n for n in range(first, last + 1)}
            at = (9, 8, 6)[stored]
            numbers = [{n for n, _ in scan.numbers_in(plane, index, box=box)} for index in range(size)]
            assert {index for index in range(size) if 1 in numbers[index]} == turned
            assert {index for index in range(size) if 2 in numbers[index]} == {size - 1 - at if flipped else at}
            assert not any(3 in found for found in numbers), "nothing is labelled there"


def test_a_number_stands_at_the_upper_right_corner_of_its_part() -> None:
    affine = np.diag([1.5, 1.0, 2.0, 1.0])  # axes run right, anterior, superior; pictures show right at the left
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 2:7, 1:4] = 1
    scan = PreviewScan(np.zeros(SHAPE), labels.astype(float), labels, affine, places=[(4 * 1.5, 5.0, 4.0)])
    box = (slice(1, 12), slice(1, 10), slice(0, 8))
    assert scan.numbers_in("axial", 2, box=box) == [(1, ((12 - 3) * 1.5, 6.0))]
    assert scan.numbers_in("coronal", 4, box=box) == [(1, ((12 - 3) * 1.5, 8.0))]
    assert scan.numbers_in("sagittal", 4, box=box) == [(1, (8.0, 8.0))]


def test_a_part_beyond_a_gap_is_another_place() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[4, 4, 1:3] = labels[4, 4, 4:6] = 1
    scan = PreviewScan(np.zeros(SHAPE), labels.astype(float), labels, np.eye(4), places=[(4, 4, 1)])
    box = (slice(0, 12), slice(0, 10), slice(0, 8))
    assert [len(scan.numbers_in("axial", index, box=box)) for index in range(6)] == [0, 1, 1, 0, 0, 0]


def test_the_region_is_cut_like_the_scan_it_lies_in():
    region = np.random.default_rng(5).random((5, 6, 7)) < 0.5
    affine = np.array([[0, -2.0, 0, 4], [0, 0, 3.0, -9], [1.5, 0, 0, 2], [0, 0, 0, 1]])
    scan = PreviewScan(region * 1.0, region * 2.0, region.astype(np.uint8), affine, region)
    box = tuple(slice(0, size) for size in scan.ct.shape)
    for plane in ("axial", "coronal", "sagittal"):
        view = scan.view(plane, 2, box=box)
        np.testing.assert_array_equal(view.region, view.ct > 0)
    assert PreviewScan(region * 1.0, region * 2.0, region, affine).view("axial", 2, box=box).region is None
