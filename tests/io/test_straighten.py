"""Tilted scans on a right-angled grid: no voxel is lost, and all stay where they were measured."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from klip_monai.io.checks import slice_axis
from klip_monai.io.source_grid import as_affine
from klip_monai.io.straighten import straighten

SHAPE = (9, 8, 7)


@st.composite
def leaning(draw: st.DrawFn) -> np.ndarray:
    """Grids of a tilted gantry: any lean of up to 30 degrees either way, small turns of the patient, any axis order."""
    turn = Rotation.from_euler("zyx", [draw(st.floats(-20, 20)) for _ in range(3)], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([draw(st.floats(0.4, 3.0)) * draw(st.sampled_from((-1, 1))) for _ in range(3)])
    axes = affine[:3, :3]
    axes[:, 2] += np.linalg.norm(axes[:, 2]) * (
        axes[:, 0] / np.linalg.norm(axes[:, 0]) * draw(st.floats(-0.2, 0.2))
        + axes[:, 1] / np.linalg.norm(axes[:, 1]) * draw(st.floats(-0.5, 0.5))
    )
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    affine[:3, :3] = axes[:, draw(st.sampled_from(([0, 1, 2], [2, 0, 1], [1, 2, 0])))]
    return affine


def voxels_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape).reshape(3, -1).T


def source_in(straight: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Places of the source voxels on the straight grid, (n, 3)."""
    return nib.affines.apply_affine(np.linalg.inv(straight) @ affine, voxels_of(SHAPE))


@settings(deadline=None, max_examples=100)
@given(affine=leaning(), seed=st.integers(0, 9))
def test_labels_come_back_on_the_source_voxels_and_none_is_made_or_lost(affine: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)
    moved, straight = straighten(labels, affine, nearest=True)
    assert moved.dtype == np.uint8
    np.testing.assert_array_equal(as_affine(straight), straight)
    i, j, k = source_in(straight, affine).round().astype(int).T
    assert all((n >= 0).all() and (n < size).all() for n, size in zip((i, j, k), moved.shape, strict=True))
    np.testing.assert_array_equal(moved[i, j, k].reshape(SHAPE), labels)
    np.testing.assert_array_equal(np.bincount(moved.ravel())[1:], np.bincount(labels.ravel())[1:])


@settings(deadline=None, max_examples=50)
@given(affine=leaning())
def test_grid_keeps_planes_spacing_and_volume_of_a_voxel(affine: np.ndarray) -> None:
    moved, straight = straighten(np.zeros(SHAPE), affine)
    axis = slice_axis(affine)
    places = source_in(straight, affine)
    np.testing.assert_allclose(places[:, axis], voxels_of(SHAPE)[:, axis], atol=1e-6)
    in_plane = [other for other in range(3) if other != axis]
    np.testing.assert_array_equal(straight[:3, in_plane], affine[:3, in_plane])
    np.testing.assert_allclose(np.linalg.det(straight), np.linalg.det(affine))
    # No more rows and columns than the lean takes, rounded up.
    extent = np.ptp(places, axis=0)
    assert (np.array(moved.shape) <= np.ceil(extent) + 2).all()


@settings(deadline=None, max_examples=50)
@given(affine=leaning(), slope=st.tuples(*[st.floats(-3, 3)] * 3))
def test_linear_fields_stay_where_they_are_in_space(affine: np.ndarray, slope: tuple[float, ...]) -> None:
    def field(grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return (nib.affines.apply_affine(grid, voxels_of(shape)) @ slope).reshape(shape)

    moved, straight = straighten(field(affine, SHAPE), affine, fill=np.nan)
    known = np.isfinite(moved)
    np.testing.assert_allclose(moved[known], field(straight, moved.shape)[known], atol=1e-6)
    assert known.mean() > 0.1


def test_heat_map_spreads_over_neighbours_and_keeps_its_sum() -> None:
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    affine[1, 2] = 1.3
    heat = np.random.default_rng(0).gamma(1.0, 0.02, SHAPE).astype(np.float32)
    moved, straight = straighten(heat, affine)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved.sum(axis=(0, 1)), heat.sum(axis=(0, 1)), rtol=1e-5)
    at_source = map_coordinates(moved, source_in(straight, affine).T, order=1).reshape(SHAPE)
    assert np.corrcoef(at_source.ravel(), heat.ravel())[0, 1] > 0.7


def test_upright_scan_is_given_back_as_it_is() -> None:
    values, affine = np.ones(SHAPE), np.diag([-0.7, -0.8, 2.0, 1.0])
    same, grid = straighten(values, affine)
    assert same is values
    assert grid is affine
