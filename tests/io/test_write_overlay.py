from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import slicerio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from klip_monai.errors import InputError
from klip_monai.io.write.overlay import write_heatmap, write_labels, write_segmentation
from klip_monai.io.write.segments import SEGMENTS

SHAPE = (7, 6, 5)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

angles = st.floats(-180.0, 180.0)
spacings = st.floats(0.3, 5.0)
origins = st.floats(-800.0, 800.0)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Voxel-to-RAS matrices: any rotation, spacing, origin and handedness."""
    turn = Rotation.from_euler("zyx", [draw(angles) for _ in range(3)], degrees=True).as_matrix()
    flip = np.diag([draw(st.sampled_from((-1.0, 1.0))) for _ in range(3)])
    affine = np.eye(4)
    affine[:3, :3] = turn @ flip @ np.diag([draw(spacings) for _ in range(3)])
    affine[:3, 3] = [draw(origins) for _ in range(3)]
    return affine


def heatmap() -> np.ndarray:
    return np.random.default_rng(0).gamma(1.0, 0.02, SHAPE).astype(np.float32)


def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


def itk_affine(image: SimpleITK.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def itk_voxels(image: SimpleITK.Image) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)


def farthest_corner_error(found: np.ndarray, expected: np.ndarray, shape: tuple[int, ...]) -> float:
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in shape]), -1).reshape(-1, 3)
    difference = nib.affines.apply_affine(found, corners) - nib.affines.apply_affine(expected, corners)
    return float(np.linalg.norm(difference, axis=1).max())


per_example = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@per_example
@given(affine=affines())
def test_heatmap_read_by_simpleitk_has_the_same_grid_and_voxels(affine: np.ndarray, tmp_path: Path) -> None:
    image = SimpleITK.ReadImage(write_heatmap(tmp_path / "h.nii.gz", heatmap(), affine))
    np.testing.assert_array_equal(itk_voxels(image), heatmap())
    assert image.GetPixelID() == SimpleITK.sitkFloat32
    assert farthest_corner_error(itk_affine(image), affine, SHAPE) < 1e-4


@per_example
@given(affine=affines())
def test_qform_and_sform_are_both_scanner_coordinates_and_agree(affine: np.ndarray, tmp_path: Path) -> None:
    header = nib.load(write_heatmap(tmp_path / "h.nii.gz", heatmap(), affine)).header
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = header.get_qform(coded=True)
    assert (int(sform_code), int(qform_code)) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(sform, affine, atol=1e-4)
    # The quaternion leaves its real part out, and near 180 degrees nibabel takes it for 0 below 6e-4: 1.2e-3 radians.
    assert farthest_corner_error(qform, affine, SHAPE) < 5e-2


@per_example
@given(affine=affines())
def test_labels_read_by_simpleitk_have_the_same_grid_and_voxels(affine: np.ndarray, tmp_path: Path) -> None:
    image = SimpleITK.ReadImage(write_labels(tmp_path / "l.nii.gz", labels(), affine))
    assert image.GetPixelID() == SimpleITK.sitkUInt8
    np.testing.assert_array_equal(itk_voxels(image), labels())
    assert farthest_corner_error(itk_affine(image), affine, SHAPE) < 1e-4


@per_example
@given(affine=affines())
def test_segmentation_read_by_simpleitk_has_the_same_grid_and_voxels(affine: np.ndarray, tmp_path: Path) -> None:
    image = SimpleITK.ReadImage(write_segmentation(tmp_path / "s.seg.nrrd", labels(), affine))
    np.testing.assert_array_equal(itk_voxels(image), labels())
    np.testing.assert_allclose(itk_affine(image), affine, atol=1e-4)


@pytest.mark.parametrize("voxels", [labels(), np.zeros(SHAPE, np.uint8)], ids=["both labels", "nothing suspicious"])
def test_segmentation_has_both_named_coloured_and_coded_segments(voxels: np.ndarray, tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "s.seg.nrrd", voxels, np.diag([-1.0, -1.0, 3.0, 1.0]))
    segmentation = slicerio.read_segmentation(str(path))
    assert [segment["id"] for segment in segmentation["segments"]] == ["suspicious", "strongly_suspicious"]
    assert segmentation["encoding"] == "gzip"
    for found, expected in zip(segmentation["segments"], SEGMENTS, strict=True):
        assert found["name"] == expected.name
        assert found["color"] == pytest.approx(expected.rgb)
        assert found["labelValue"] == expected.value
        assert found["terminology"]["category"][:2] == ["SCT", "49755003"]
        np.testing.assert_array_equal(slicerio.segment_mask(segmentation, found["id"]), voxels == expected.value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_hold_every_bit_and_no_name_or_time(order: str, tmp_path: Path) -> None:
    heatmap = np.random.default_rng(0).exponential(size=(40, 30, 20)).astype(np.float32)
    heatmap[:10] = 0.0
    labels = (heatmap > 1).astype(np.uint8) + (heatmap > 3)
    for number in range(2):
        write_heatmap(tmp_path / f"{number}_heatmap.nii.gz", np.array(heatmap, order=order), np.eye(4))
        write_labels(tmp_path / f"{number}_labels.nii.gz", np.array(labels, order=order), np.eye(4))
    for name, voxels in (("heatmap", heatmap), ("labels", labels)):
        packed = (tmp_path / f"0_{name}.nii.gz").read_bytes()
        assert packed == (tmp_path / f"1_{name}.nii.gz").read_bytes()
        assert packed[:8] == b"\x1f\x8b\x08" + bytes(5)
        content = gzip.decompress(packed)
        assert content[352:] == voxels.tobytes(order="F")
        assert len(packed) <= 1.01 * len(gzip.compress(content, 1))


def test_tensors_are_written_like_arrays(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([-0.7, -0.7, 2.0, 1.0], dtype=torch.float64))
    path = write_heatmap(tmp_path / "t.nii.gz", torch.from_numpy(heatmap()), affine)
    assert path.read_bytes() == write_heatmap(tmp_path / "a.nii.gz", heatmap(), affine.numpy()).read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_heatmap_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    broken = heatmap()
    broken[1, 2, 3] = value
    with pytest.raises(InputError, match=r"heatmap: got 1 NaN or infinite voxels"):
        write_heatmap(tmp_path / "h.nii.gz", broken, np.eye(4))
    assert not list(tmp_path.iterdir())


def test_heatmap_with_a_channel_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"heatmap: got shape \(1, 7, 6, 5\)"):
        write_heatmap(tmp_path / "h.nii.gz", heatmap()[np.newaxis], np.eye(4))


@pytest.mark.parametrize("voxels", [np.full(SHAPE, 3), np.full(SHAPE, -1), np.full(SHAPE, 0.5), np.full(SHAPE, 257)])
def test_labels_other_than_zero_one_two_are_refused(voxels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected only 0"):
        write_labels(tmp_path / "l.nii.gz", voxels, np.eye(4))


def test_labels_with_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels"):
        write_labels(tmp_path / "l.nii.gz", np.full(SHAPE, np.nan), np.eye(4))


def test_sheared_grid_is_refused_since_viewers_cannot_show_it(tmp_path: Path) -> None:
    tilted = np.eye(4)
    tilted[1, 2] = 0.26
    with pytest.raises(InputError, match="not perpendicular"):
        write_segmentation(tmp_path / "s.seg.nrrd", labels(), tilted)


@pytest.mark.parametrize("affine", [np.eye(3), np.diag([1.0, 0.0, 1.0, 1.0]), np.full((4, 4), np.nan)])
def test_matrix_that_is_not_an_affine_is_refused(affine: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^affine: got"):
        write_labels(tmp_path / "l.nii.gz", labels(), affine)


def test_suffix_that_misleads_readers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a name ending in \.seg\.nrrd"):
        write_segmentation(tmp_path / "s.nrrd", labels(), np.eye(4))
    with pytest.raises(InputError, match=r"expected a name ending in \.nii\.gz"):
        write_heatmap(tmp_path / "h.nii", heatmap(), np.eye(4))
