"""A scene opened by 3D Slicer's own core: it shows CT, heat map and segments without a further step."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread
from planted_case import BLOB_PEAK, BLOB_SIGMA_MM, BLOB_VOXEL, MARKED_VOXELS, Case
from slicer_checks import changed_pixels, check_segments

pytestmark = pytest.mark.acceptance

Report = dict[str, Any]


def test_volumes_lie_on_the_grid_of_the_scan(scene_in_slicer: Report, oblique_case: Case) -> None:
    for name in ("ct", "heatmap", "segmentation"):
        np.testing.assert_allclose(scene_in_slicer[name]["ijk_to_ras"], oblique_case.affine, atol=1e-4)
    assert scene_in_slicer["ct"]["range"] == [-1000.0, 500.0]
    assert scene_in_slicer["heatmap"]["range"] == pytest.approx([0.0, BLOB_PEAK], abs=1e-6)


def test_ct_has_a_soft_tissue_window_and_the_heat_map_our_colours(scene_in_slicer: Report) -> None:
    ct, heatmap = scene_in_slicer["ct"], scene_in_slicer["heatmap"]
    assert (ct["level"], ct["window"], ct["threshold"]) == (40.0, 400.0, None)
    assert heatmap["threshold"] == pytest.approx(0.25 * BLOB_PEAK)
    assert heatmap["level"] + heatmap["window"] / 2 == pytest.approx(BLOB_PEAK)
    np.testing.assert_allclose(heatmap["first_and_last_colour"], colormaps["viridis"]([0.0, 1.0]), atol=0.003)


def test_legend_names_the_unit_and_the_text_says_what_was_found(scene_in_slicer: Report) -> None:
    legend = scene_in_slicer["legend"]
    assert legend["visible"]
    assert legend["title"].splitlines() == ["KL density", "nats per pixel"]
    assert legend["of"] == "vtkMRMLScalarVolumeDisplayNode2"
    assert scene_in_slicer["text"].splitlines()[-1] == "Not for diagnosis."


def test_segments_have_names_colours_codes_and_surfaces(scene_in_slicer: Report) -> None:
    check_segments(scene_in_slicer)
    assert scene_in_slicer["surfaces"] == [True, True]


def test_candidates_are_numbered_points_where_they_are_and_locked(scene_in_slicer: Report, oblique_case: Case) -> None:
    points = scene_in_slicer["points"]
    assert [point["label"] for point in points] == ["1", "2"]
    expected = nib.affines.apply_affine(oblique_case.affine, MARKED_VOXELS)
    np.testing.assert_allclose([point["ras"] for point in points], expected, atol=1e-4)
    assert scene_in_slicer["points_locked"]


def test_all_slice_views_show_the_worst_voxel_along_the_axes_of_the_scan(
    scene_in_slicer: Report, oblique_case: Case
) -> None:
    worst = nib.affines.apply_affine(oblique_case.affine, BLOB_VOXEL)
    np.testing.assert_allclose(scene_in_slicer["worst_ras"], worst, atol=1e-4)
    for picture in scene_in_slicer["pictures"]:
        slice_to_ras = np.array(picture["slice_to_ras"])
        assert np.linalg.solve(slice_to_ras, [*worst, 1.0])[2] == pytest.approx(0.0, abs=1e-3)
        along = slice_to_ras[:3, :3].T @ oblique_case.affine[:3, :3]
        assert np.count_nonzero(np.abs(along) > 1e-3) == 3
        assert (picture["background"], picture["foreground"]) == (
            "vtkMRMLScalarVolumeNode1",
            "vtkMRMLScalarVolumeNode2",
        )
        assert picture["linked"]


def test_pictures_have_the_overlay_on_the_blob_and_leave_healthy_tissue_free(
    scene_in_slicer: Report, oblique_case: Case
) -> None:
    worst = nib.affines.apply_affine(oblique_case.affine, BLOB_VOXEL)
    for picture in scene_in_slicer["pictures"]:
        plain, overlay = imread(picture["plain"])[..., :3], imread(picture["overlay"])[..., :3]
        assert plain.std() > 0.02
        rows, columns = np.nonzero(changed_pixels(plain, overlay))
        ras_to_xy = np.array(picture["ras_to_xy"])
        pixels_per_mm = np.linalg.norm(ras_to_xy[0, :3])
        x, y = nib.affines.apply_affine(ras_to_xy, worst)[:2]
        distance_mm = np.hypot(columns - x, plain.shape[0] - 1 - rows - y) / pixels_per_mm
        radius_mm = BLOB_SIGMA_MM * np.sqrt(2 * np.log(4))
        assert np.sqrt(distance_mm.size / np.pi) / pixels_per_mm == pytest.approx(radius_mm, abs=3.0)
        assert distance_mm.max() < radius_mm + 3.0
        red, green, blue = overlay[plain.shape[0] - 1 - round(y), round(x) + 8]  # beside the number of the point
        assert min(red, green) > blue + 0.15
