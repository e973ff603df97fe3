from __future__ import annotations

import itertools
import json

import nibabel.orientations as nio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from klip_monai.errors import InputError
from klip_monai.standard import (
    Placement,
    PriorGrid,
    _resampling_matrix,
    beneath_skin,
    body_mask,
    distance_of_standard_slices,
    resample_mask,
    slice_axis,
    slice_distance,
    standard_slices,
    to_source_grid,
)

LOW, HIGH = PriorGrid().hu_window
SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


@st.composite
def scan_grids(draw, *, voxels=(18, 32), spacing_mm=(1.0, 4.0)) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of a scan: any axis order and flips, up to 8 degrees oblique, anisotropic."""
    axes = draw(st.sampled_from(SIGNED_PERMUTATIONS))
    tilt = Rotation.from_euler("xyz", [draw(st.floats(-8, 8)) for _ in range(3)], degrees=True).as_matrix()
    spacing = np.array([draw(st.floats(*spacing_mm)) for _ in range(3)])
    shape = tuple(draw(st.integers(*voxels)) for _ in range(3))
    affine = np.eye(4)
    affine[:3, :3] = tilt @ axes @ np.diag(spacing)
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return shape, affine


def grids(*, pixels=(16, 24), pixel_mm=(1.0, 5.0)) -> st.SearchStrategy[PriorGrid]:
    shapes = st.tuples(st.integers(*pixels), st.integers(*pixels))
    return st.builds(PriorGrid, image_shape=shapes, pixel_mm=st.floats(*pixel_mm))


def mm(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """RAS mm of every voxel, (3, *shape)."""
    return np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3].reshape(3, 1, 1, 1)


def volume(hu: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(hu.astype(np.float32))[None], affine=torch.from_numpy(affine))


def to_hu(images: torch.Tensor) -> np.ndarray:
    """Standard slices (Z, 1, H, W) back in HU as (H, W, Z)."""
    return ((images[:, 0] + 1) / 2 * (HIGH - LOW) + LOW).permute(1, 2, 0).double().numpy()


def axial(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """RAS affine of an axial scan as DICOM stores it, centred on the origin."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def interior(placement: Placement) -> np.ndarray:
    """Bool (H, W, Z): standard pixels whose value depends on voxels inside of the scan alone."""
    grid = placement.grid
    to_voxel = np.linalg.inv(placement.source_affine) @ placement.affine
    at = mm(to_voxel, (*grid.image_shape, oriented_shape(placement)[2]))
    reach = np.maximum(1, grid.pixel_mm / np.linalg.norm(placement.source_affine[:3, :3], axis=0)).reshape(3, 1, 1, 1)
    last = np.array(placement.source_shape).reshape(3, 1, 1, 1) - 1
    in_plane = [axis for axis in range(3) if int(placement.orientation[axis, 0]) < 2]
    return np.all(((at >= reach) & (at <= last - reach))[in_plane], axis=0)


def oriented_shape(placement: Placement) -> tuple[int, ...]:
    shape = [0, 0, 0]
    for axis, (to, _) in enumerate(placement.orientation):
        shape[int(to)] = placement.source_shape[axis]
    return tuple(shape)


@given(scan=scan_grids(), grid=grids(), direction=st.tuples(*[st.floats(-1, 1)] * 3))
@settings(deadline=None, max_examples=60)
def test_placement_says_where_in_the_patient_each_standard_pixel_lies(scan, grid, direction):
    shape, affine = scan
    slope = np.array(direction)
    ramp = np.einsum("i,i...->...", slope, mm(affine, shape))
    offset, scale = ramp.mean(), 180 / max(float(np.ptp(ramp)) / 2, 1e-6)
    slices = standard_slices(volume((ramp - offset) * scale + 40, affine), grid)
    placement = slices.placement

    found = to_hu(slices.images)
    expected = (np.einsum("i,i...->...", slope, mm(placement.affine, found.shape)) - offset) * scale + 40
    inside = interior(placement)
    assert inside.any()
    # A triangle wider than a voxel meets the voxels unevenly: its centre is off by up to a tenth of a voxel.
    steepest = np.abs(slope @ affine[:3, :3]).sum() * scale
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.1 * steepest + 0.05)


@given(scan=scan_grids(), grid=grids())
@settings(deadline=None, max_examples=40)
def test_slices_run_from_inferior_to_superior_rows_to_posterior_and_columns_to_left(scan, grid):
    shape, affine = scan
    placement = standard_slices(volume(np.full(shape, 40.0), affine), grid).placement
    rows, columns, across = (v / np.linalg.norm(v) for v in placement.affine[:3, :3].T)
    assert rows @ [0, -1, 0] > 0.9
    assert columns @ [-1, 0, 0] > 0.9
    assert across @ [0, 0, 1] > 0.9
    assert np.linalg.norm(placement.affine[:3, 0]) == pytest.approx(grid.pixel_mm)
    assert np.linalg.norm(placement.affine[:3, 1]) == pytest.approx(grid.pixel_mm)


@given(scan=scan_grids(), grid=grids())
@settings(deadline=None, max_examples=40)
def test_a_map_comes_back_on_the_very_grid_of_the_scan(scan, grid):
    shape, affine = scan
    slices = standard_slices(volume(np.full(shape, 40.0), affine), grid)
    back = to_source_grid(torch.ones_like(slices.images), slices.placement)
    assert back.shape == (1, *shape)
    assert back.dtype == torch.float32
    assert np.array_equal(np.asarray(back.affine), affine)
    values = back[0].numpy()
    assert values.min() >= 0
    assert values.max() <= 1 + 1e-5

    to_pixel = np.linalg.inv(slices.placement.affine) @ affine
    at = mm(to_pixel, shape)[:2]
    last = np.array(grid.image_shape).reshape(2, 1, 1, 1) - 1
    reach = 1 + float(np.linalg.norm(to_pixel[:2, :3], axis=0).max())
    inside = np.all((at >= reach) & (at <= last - reach), axis=0)
    outside = np.any((at < -reach) | (at > last + reach), axis=0)
    np.testing.assert_allclose(values[inside], 1.0, atol=1e-5)
    assert not values[outside].any()


@given(
    scan=scan_grids(voxels=(28, 36), spacing_mm=(1.5, 2.5)),
    grid=grids(pixels=(24, 32), pixel_mm=(1.5, 3.5)),
    at=st.tuples(*[st.floats(0.45, 0.55)] * 3),
)
@settings(deadline=None, max_examples=40)
def test_a_blob_keeps_its_place_from_scan_to_slices_and_back(scan, grid, at):
    shape, affine = scan
    centre = affine[:3, :3] @ (np.array(at) * (np.array(shape) - 1)) + affine[:3, 3]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    width = 1.2 * max(float(spacing.max()), grid.pixel_mm)  # wide enough to be sampled, and well inside of the scan
    blob = 180 * np.exp(-0.5 * (np.linalg.norm(mm(affine, shape) - centre.reshape(3, 1, 1, 1), axis=0) / width) ** 2)
    slices = standard_slices(volume(40 + blob, affine), grid)
    maps = torch.from_numpy((to_hu(slices.images) - 40).clip(0)).permute(2, 0, 1)[:, None] * slices.body
    back = to_source_grid(maps, slices.placement)[0].double().numpy()

    def place(values: np.ndarray, of: np.ndarray) -> np.ndarray:
        points = mm(of, values.shape)
        near = values * (np.linalg.norm(points - centre.reshape(3, 1, 1, 1), axis=0) < 2.5 * width)
        return (points * near).sum(axis=(1, 2, 3)) / near.sum()

    half_a_voxel = 0.5 * float(spacing.min())
    on_grid = maps[:, 0].permute(1, 2, 0).double().numpy()
    assert np.linalg.norm(place(on_grid, slices.placement.affine) - centre) < half_a_voxel
    assert np.linalg.norm(place(back, affine) - centre) < half_a_voxel


def test_maps_of_another_shape_are_refused():
    shape = (20, 22, 3)
    slices = standard_slices(volume(np.full(shape, 40.0), axial(shape, (2.0, 2.0, 5.0))), PriorGrid((16, 18), 2.0))
    with pytest.raises(ValueError, match=r"maps: got shape \(3, 1, 18, 16\), expected \(3, 1, 16, 18\)"):
        to_source_grid(torch.zeros(3, 1, 18, 16), slices.placement)


def test_every_slice_of_a_map_belongs_to_one_slice_of_the_scan():
    shape = (20, 22, 40)  # more than are resampled at a time
    slices = standard_slices(volume(np.full(shape, 40.0), axial(shape, (2.0, 2.0, 5.0))), PriorGrid((16, 16), 2.0))
    maps = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 1, 16, 16)
    back = to_source_grid(maps, slices.placement)[0].numpy()
    for z in range(40):
        assert back[10, 11, z] == pytest.approx(z)


def test_axes_of_a_standard_slice_look_like_a_radiological_picture():
    shape, spacing = (64, 64, 5), (2.0, 2.0, 5.0)
    affine = axial(shape, spacing)
    right, anterior, _ = mm(affine, shape)
    hu = np.full(shape, 40.0)
    hu[(right > 30) & (right < 45) & (np.abs(anterior) < 8)] = 200  # to the patient's right
    hu[(anterior > 30) & (anterior < 45) & (np.abs(right) < 8)] = -120  # to the front
    hu[:, :, -1] = 120  # at the top
    images = standard_slices(volume(hu, affine), PriorGrid((32, 32), 4.0)).images[:, 0]
    assert float(images[2, 14:18, 5:8].mean()) > 0.7, "the patient's right is not at the left of the picture"
    assert float(images[2, 5:8, 14:18].mean()) < -0.7, "anterior is not at the top of the picture"
    assert float(images[4, 16, 16]) == pytest.approx((120 - LOW) / (HIGH - LOW) * 2 - 1, abs=1e-4)


def cylinder(*, radius: float = 60.0, shape: tuple[int, int, int] = (96, 96, 3)) -> tuple[np.ndarray, ...]:
    """HU of a round body, and x (left), y (posterior) mm of every voxel."""
    affine = axial(shape, (2.0, 2.0, 5.0))
    right, anterior, _ = mm(affine, shape)
    x, y = -right, -anterior
    return np.where(np.hypot(x, y) < radius, 40.0, -1000.0), x, y, affine


def test_body_mask_takes_out_the_table_and_fills_in_gas():
    hu, x, y, affine = cylinder()
    gas = np.hypot(x - 15, y + 10) < 14
    table = (np.abs(x) < 80) & (y > 70) & (y < 82)
    hu[gas], hu[table] = -900.0, 100.0
    grid = PriorGrid((64, 64), 3.0)
    slices = standard_slices(volume(hu, affine), grid)

    def covered(region: np.ndarray) -> torch.Tensor:
        return resample_mask(region, slices.placement)

    assert bool(slices.body[covered(gas)].all()), "gas is part of the body"
    assert not bool(slices.body[covered(table)].any()), "the table is not part of the body"
    assert bool(slices.body[covered(np.hypot(x, y) < 55)].all())
    assert not bool(slices.body[covered(np.hypot(x, y) > 66)].any())
    assert bool((slices.images[~slices.body] == -1).all())
    assert bool((slices.images[covered(gas & (np.hypot(x - 15, y + 10) < 8))] == -1).all())


def test_body_mask_does_not_follow_a_thin_bridge_to_the_table():
    hu, x, y, affine = cylinder()
    hu[(np.abs(x) < 80) & (y > 72) & (y < 84)] = 100.0
    hu[(np.abs(x) < 1.5) & (y > 50) & (y < 80)] = 100.0  # a fold of cloth, one pixel wide
    slices = standard_slices(volume(hu, affine), PriorGrid((64, 64), 3.0))
    table = resample_mask((np.abs(x) > 20) & (np.abs(x) < 80) & (y > 72) & (y < 84), slices.placement)
    assert not bool(slices.body[table].any())


def test_body_mask_keeps_the_edge_of_the_body():
    images = torch.full((1, 1, 20, 20), -1000.0)
    images[0, 0, 4:16, 5:15] = 40.0
    assert torch.equal(body_mask(images, body_hu=-300)[0, 0], images[0, 0] > -300)


@given(scan=scan_grids(), grid=grids(), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_maps_are_interpolated_alike_wherever_their_values_lie(scan, grid, seed):
    shape, affine = scan
    placement = standard_slices(volume(np.full(shape, 40.0), affine), grid).placement
    oriented = nio.apply_orientation(np.empty(shape), placement.orientation).shape
    rng = np.random.default_rng(seed)
    maps = torch.zeros(oriented[2], 1, *grid.image_shape)
    z, _, rows, columns = (slice(*sorted(rng.integers(0, size + 1, 2))) for size in maps.shape)  # empty now and then
    maps[z, :, rows, columns] = torch.from_numpy(rng.random(maps[z, :, rows, columns].shape)).float()
    matrices = []
    for axis in (0, 1):
        step = np.linalg.norm(placement.oriented_affine[:3, axis]) / grid.pixel_mm
        n = grid.image_shape[axis]
        start = (n - 1) / 2 - placement.centre[axis] * step
        matrices.append(_resampling_matrix(n, oriented[axis], step=step, start=start).double())
    whole = matrices[0] @ maps[:, 0].double() @ matrices[1].T
    found = to_source_grid(maps, placement)
    assert found.shape == (1, *shape)
    back = nio.apply_orientation(found[0].numpy(), placement.orientation).transpose(2, 0, 1)
    np.testing.assert_allclose(back, whole, rtol=1e-5, atol=1e-7)
    assert (back[whole.numpy() == 0] == 0).all()


def outlines(seed: int) -> np.ndarray:
    """Bool (7, 48, 40): blobs and dots, one that covers the border, a thin bridge, a ring, a line, all, nothing."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 48, 40)), (0, 3, 3))
    planes = np.zeros((7, 48, 40), dtype=bool)
    planes[0] = (noise[0] > 0) ^ (rng.random((48, 40)) < 0.02)
    planes[1] = noise[1] > np.quantile(noise[1], 0.2)
    planes[2, 10:20, 5:35], planes[2, 30:44, 5:35], planes[2, 20:30, rng.integers(5, 35)] = True, True, True
    planes[3, 8:40, 4:30], planes[3, 14:30, 10 : rng.integers(12, 32)] = True, False
    planes[4, :, rng.integers(40)] = True
    planes[5] = True
    return planes


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_body_mask_is_the_largest_opened_part_with_its_edge_and_its_holes(seed):
    planes, cross = outlines(seed), ndimage.generate_binary_structure(2, 1)
    body = body_mask(torch.where(torch.from_numpy(planes)[:, None], 40.0, -1000.0), body_hu=-300)
    for plane, found in zip(planes, body[:, 0].numpy(), strict=True):
        parts, n = ndimage.label(ndimage.binary_opening(plane, cross))
        sizes = ndimage.sum_labels(np.ones_like(parts), parts, range(1, n + 1))
        largest = parts == 1 + np.argmax(sizes) if n else np.zeros_like(plane)
        edge = ndimage.binary_propagation(largest, mask=plane & ndimage.binary_dilation(largest, cross))
        np.testing.assert_array_equal(found, ndimage.binary_fill_holes(edge))


@given(seed=st.integers(0, 1000), skin_px=st.sampled_from([1.0, 2**0.5, 2.0, 5**0.5, 2.5, 3.0, 5.0, 6.0, 7.3, 60.0]))
@settings(deadline=None, max_examples=30)
def test_the_rim_is_as_wide_as_the_distance_transform_says(seed, skin_px):
    planes = outlines(seed)
    inner = beneath_skin(torch.from_numpy(planes)[:, None], skin_px=skin_px)
    for plane, found in zip(planes, inner[:, 0].numpy(), strict=True):
        np.testing.assert_array_equal(found, ndimage.distance_transform_edt(np.pad(plane, 1))[1:-1, 1:-1] > skin_px)


@given(seed=st.integers(0, 1000), skin_px=st.floats(0.1, 6.0))
@settings(deadline=None, max_examples=20)
def test_the_rim_is_what_lies_that_near_to_anything_but_body(seed, skin_px):
    body = torch.from_numpy(np.random.default_rng(seed).random((2, 1, 12, 15)) < 0.97)
    outside = np.argwhere(~np.pad(body.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))) - (0, 0, 1, 1)
    inner = beneath_skin(body, skin_px=skin_px)
    for z, _, y, x in np.ndindex(*body.shape):
        distance = np.hypot(*(outside[outside[:, 0] == z][:, 2:] - (y, x)).T).min()
        assert bool(inner[z, 0, y, x]) == (distance > skin_px)
    assert beneath_skin(body, skin_px=0) is body


def test_a_slice_stored_in_the_window_is_outlined_like_the_whole_scan():
    hu, x, y, affine = cylinder()
    hu[np.hypot(x, y) > 54] = np.where(np.hypot(x, y)[np.hypot(x, y) > 54] < 60, -100.0, -1000.0)  # fat, then air
    grid = PriorGrid((64, 64), 3.0, body_hu=-140.0)
    whole = standard_slices(volume(hu, affine), grid)
    windowed = standard_slices(volume(np.clip(hu, -160, 240), affine), grid)
    assert torch.equal(whole.body, windowed.body)
    torch.testing.assert_close(whole.images, windowed.images)
    assert bool(windowed.body[resample_mask(np.hypot(x, y) < 58, windowed.placement)].all())


def test_a_body_threshold_above_fat_is_refused():
    with pytest.raises(ValueError, match=r"body_hu: got -90.* expected HU between air \(-1000\) and fat \(-100\)"):
        PriorGrid(body_hu=-90.0)


def test_slices_of_air_have_no_body():
    images = torch.full((2, 1, 16, 16), -1000.0)
    images[1, 0, 4:12, 4:12] = 0.0
    body = body_mask(images, body_hu=-300)
    assert not body[0].any()
    assert int(body[1].sum()) == 64


def test_a_volume_of_air_is_refused():
    with pytest.raises(InputError, match=r"volume: nothing denser than -300 HU was found \(maximum -1000\)"):
        standard_slices(volume(np.full((20, 20, 2), -1000.0), np.eye(4)), PriorGrid((16, 16), 2.0))


@pytest.mark.parametrize("shape", [(20, 20, 4), (2, 20, 20, 4), (1, 1, 20, 20, 4)])
def test_anything_but_one_channel_of_three_axes_is_refused(shape):
    with pytest.raises(InputError, match=r"volume: got shape .* expected \(1, X, Y, Z\) in HU"):
        standard_slices(MetaTensor(torch.zeros(shape), affine=torch.eye(4)), PriorGrid((16, 16), 2.0))


@pytest.mark.parametrize(("voxel", "pixel"), [(1.0, 2.7), (1.0, 4.0), (3.0, 1.1), (2.0, 2.0)])
def test_resampling_keeps_the_mean_at_any_ratio(voxel, pixel):
    shape = (90, 90, 1)
    hu = np.random.default_rng(0).uniform(-100, 200, shape)
    slices = standard_slices(volume(hu, axial(shape, (voxel, voxel, 5.0))), PriorGrid((16, 16), pixel))
    to_voxel = np.linalg.inv(slices.placement.source_affine) @ slices.placement.affine
    edges = np.sort([np.round(to_voxel @ [at, at, 0, 1])[:2] for at in (-0.5, 15.5)], axis=0).astype(int)
    region = hu[tuple(slice(max(lo, 0), hi + 1) for lo, hi in edges.T)]
    spread = hu.std() / np.sqrt(region.size)
    assert to_hu(slices.images).mean() == pytest.approx(region.mean(), abs=4 * spread + 1)


def test_a_constant_stays_constant_at_any_ratio():
    shape = (90, 90, 1)
    for voxel, pixel in ((1.0, 2.7), (1.0, 3.0), (3.0, 1.1), (2.0, 2.0)):
        source = volume(np.full(shape, 77.0), axial(shape, (voxel, voxel, 5.0)))
        slices = standard_slices(source, PriorGrid((16, 16), pixel))
        np.testing.assert_allclose(to_hu(slices.images), 77.0, atol=0.01)


def test_larger_pixels_average_detail_away_instead_of_folding_it():
    shape = (120, 120, 1)
    for period in (2, 3):
        stripes = np.where(np.indices(shape)[0] % period == 0, 200.0, -100.0)
        slices = standard_slices(volume(stripes, axial(shape, (1.0, 1.0, 5.0))), PriorGrid((24, 24), 4.0))
        found = to_hu(slices.images)
        assert found.std() < 0.1 * stripes.std()
        assert found.mean() == pytest.approx(stripes.mean(), abs=3)


def test_equal_pixels_lose_nothing_but_the_shift_of_the_grid():
    shape = (33, 33, 1)
    hu = np.random.default_rng(0).uniform(-100, 200, shape)
    images = standard_slices(volume(hu, axial(shape, (2.0, 2.0, 5.0))), PriorGrid((17, 17), 2.0)).images
    np.testing.assert_allclose(to_hu(images)[:, :, 0], hu[8:25, 8:25, 0].T, atol=0.01)


def test_hu_window_maps_to_minus_one_and_one_and_clips():
    shape = (40, 40, 5)
    hu = np.full(shape, 0.0) + np.array([-290.0, -160.0, 40.0, 240.0, 900.0])
    images = standard_slices(volume(hu, axial(shape, (2.0, 2.0, 5.0))), PriorGrid((16, 16), 2.0)).images
    np.testing.assert_allclose(images[:, 0, 8, 8], [-1, -1, 0, 1, 1], atol=1e-5)


def test_a_grid_is_centred_on_the_tissue():
    shape = (96, 96, 3)
    affine = axial(shape, (2.0, 2.0, 5.0))
    right, anterior, _ = mm(affine, shape)
    hu = np.where(np.hypot(right - 30, anterior + 20) < 40, 40.0, -1000.0)
    placement = standard_slices(volume(hu, affine), PriorGrid((32, 32), 3.0)).placement
    middle = placement.affine @ [15.5, 15.5, 1, 1]
    np.testing.assert_allclose(middle[:2], [30, -20], atol=1.0)


def test_what_the_scan_does_not_cover_is_outside_of_the_body():
    shape = (20, 20, 2)
    slices = standard_slices(volume(np.full(shape, 40.0), axial(shape, (2.0, 2.0, 5.0))), PriorGrid((40, 40), 2.0))
    assert not bool(slices.body[:, :, :9].any())
    assert bool((slices.images[:, :, :9] == -1).all())
    assert bool(slices.body[:, :, 14:26, 14:26].all())


def test_the_volume_is_left_as_it_was():
    shape = (20, 20, 2)
    given_volume = volume(np.random.default_rng(0).uniform(-100, 200, shape), axial(shape, (2.0, 2.0, 5.0)))
    before = given_volume.clone()
    standard_slices(given_volume, PriorGrid((16, 16), 2.0))
    assert torch.equal(given_volume, before)


def test_a_mask_follows_the_image():
    hu, x, y, affine = cylinder()
    spot = np.hypot(x - 20, y - 10) < 12
    hu[spot] = 200.0
    slices = standard_slices(volume(hu, affine), PriorGrid((64, 64), 3.0))
    mask = resample_mask(spot, slices.placement)
    assert mask.shape == slices.images.shape
    assert mask.dtype == torch.bool
    assert torch.equal(mask, torch.from_numpy(to_hu(slices.images) >= 120).permute(2, 0, 1)[:, None])
    assert float(mask.sum()) * 9 == pytest.approx(float(spot.sum()) * 4, rel=0.05)


def test_grid_describes_itself_in_json_and_takes_lists():
    grid = PriorGrid([64, 48], 2.5, [-200, 300])  # type: ignore[arg-type]
    assert grid == PriorGrid((64, 48), 2.5, (-200.0, 300.0))
    described = json.loads(json.dumps(grid.describe()))
    assert described == {"image_shape": [64, 48], "pixel_mm": 2.5, "hu_window": [-200.0, 300.0], "body_hu": -300.0}
    assert PriorGrid(**described) == grid


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (4, 128)}, r"image_shape: got \(4, 128\)"),
        ({"image_shape": (16, 16, 16)}, "image_shape"),
        ({"pixel_mm": 0}, "pixel_mm: got 0"),
        ({"pixel_mm": float("nan")}, "pixel_mm: got nan"),
        ({"hu_window": (240, -160)}, r"hu_window: got \(240.0, -160.0\)"),
    ],
)
def test_impossible_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PriorGrid(**options)


@given(scan_grids(), st.floats(-0.3, 0.3))
def test_axis_and_distance_of_slices_are_those_of_the_standard_slices(grid, lean):
    shape, affine = grid
    affine = affine.copy()
    along = slice_axis(affine)
    affine[:3, along] += lean * affine[:3, (along + 1) % 3]
    placement = Placement(PriorGrid(), shape, affine, (5.0, 5.0))
    assert placement.orientation[slice_axis(affine), 0] == 2
    expected, found = slice_distance(placement.affine), distance_of_standard_slices(affine)
    assert (found is None) == (expected is None)
    assert found == pytest.approx(expected)
