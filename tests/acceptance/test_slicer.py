"""Overlays opened by 3D Slicer's own readers: same grid, same names and colours, painted in the same place.

`KLIP_SLICER_PYTHON` names the Python of an environment with slicer-core and trame-slicer. To check the outputs of a
real run as well, set `KLIP_ACCEPTANCE_CT` (NIfTI or DICOM folder) and `KLIP_ACCEPTANCE_OUTPUT` (the case's folder, with
one `*heatmap*.nii.gz` and one `*.seg.nrrd`). `KLIP_ACCEPTANCE_LESION` may name a mask of the true lesion, and
`KLIP_ACCEPTANCE_PICTURES` a folder to keep the pictures in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from planted_case import BLOB_PEAK, BLOB_SIGMA_MM, BLOB_VOXEL, SHAPE, Case
from slicer_checks import changed_pixels, check_overlays, check_segments

from klip_monai.io.write.overlay import write_segmentation
from klip_monai.io.write.segments import SEGMENTS

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def report(
    oblique_case: Case, open_in_slicer: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    case = oblique_case
    out = tmp_path_factory.mktemp("pictures")
    return open_in_slicer(case.ct, case.heatmap, case.segmentation, out=out, scale=(0.0, BLOB_PEAK))


def ras_bounds(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Bounds (3, 2) in RAS mm of the voxel centres of a mask."""
    points = nib.affines.apply_affine(affine, np.argwhere(mask))
    return np.stack([points.min(0), points.max(0)], axis=1)


def test_slicer_puts_heatmap_and_segmentation_on_the_written_grid(report: dict[str, Any], oblique_case: Case) -> None:
    assert report["heatmap"]["dimensions"] == list(SHAPE)
    np.testing.assert_allclose(report["heatmap"]["ijk_to_ras"], oblique_case.affine, atol=1e-4)
    np.testing.assert_allclose(report["ct"]["ijk_to_ras"], oblique_case.affine, atol=1e-4)
    np.testing.assert_allclose(report["segmentation"]["ijk_to_ras"], oblique_case.affine, atol=1e-4)


def test_slicer_shows_named_coloured_and_coded_segments(report: dict[str, Any]) -> None:
    check_segments(report)


def test_segment_bounds_are_those_of_the_planted_blob(report: dict[str, Any], oblique_case: Case) -> None:
    for segment, found in zip(SEGMENTS, report["segments"], strict=True):
        mask = oblique_case.labels == segment.value
        assert found["voxels"] == np.count_nonzero(mask)
        expected = ras_bounds(mask, oblique_case.affine)
        np.testing.assert_allclose(np.reshape(found["bounds"], (3, 2)), expected, atol=0.1)


def test_overlay_is_painted_where_the_blob_is(report: dict[str, Any], oblique_case: Case) -> None:
    blob = nib.affines.apply_affine(oblique_case.affine, BLOB_VOXEL)
    for picture in report["pictures"]:
        plain, overlay = imread(picture["plain"])[..., :3], imread(picture["overlay"])[..., :3]
        changed = changed_pixels(plain, overlay)
        ras_to_xy = np.array(picture["ras_to_xy"])
        x, y = nib.affines.apply_affine(ras_to_xy, blob)[:2]
        pixels_per_mm = np.linalg.norm(ras_to_xy[0, :3])
        rows, columns = np.nonzero(changed)
        # Rows count from the top of the picture, y from its bottom.
        centre = np.array([columns.mean(), plain.shape[0] - 1 - rows.mean()])
        assert np.linalg.norm(centre - (x, y)) < 2.0 * pixels_per_mm
        radius_mm = np.sqrt(changed.sum() / np.pi) / pixels_per_mm
        assert radius_mm == pytest.approx(BLOB_SIGMA_MM * np.sqrt(2 * np.log(1 / 0.25)), abs=3.0)
        # Grey CT, yellow-green heat map: blue falls behind at the peak.
        red, green, blue = overlay[plain.shape[0] - 1 - round(y), round(x)]
        assert green > blue + 0.2
        assert red > blue + 0.2
        assert plain[plain.shape[0] - 1 - round(y), round(x)] == pytest.approx([0.5] * 3, abs=0.02)


def test_case_without_a_suspicious_voxel_opens_with_two_empty_segments(
    oblique_case: Case, open_in_slicer: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    case = oblique_case
    empty = write_segmentation(tmp_path / "none.seg.nrrd", np.zeros(SHAPE, np.uint8), case.affine)
    report = open_in_slicer(case.ct, case.heatmap, empty, out=tmp_path / "pictures", scale=(1.0, 2.0))
    check_overlays(report)
    assert [segment["voxels"] for segment in report["segments"]] == [0, 0]


def test_synthetic_case_passes_the_check_of_real_outputs(report: dict[str, Any]) -> None:
    check_overlays(report)


def test_outputs_of_a_real_run_line_up(open_in_slicer: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    ct, output = os.environ.get("KLIP_ACCEPTANCE_CT"), os.environ.get("KLIP_ACCEPTANCE_OUTPUT")
    if not ct or not output:
        pytest.skip("KLIP_ACCEPTANCE_CT and KLIP_ACCEPTANCE_OUTPUT do not name a CT and the outputs of its run")
    (heatmap,) = Path(output).glob("*heatmap*.nii.gz")
    (segmentation,) = Path(output).glob("*.seg.nrrd")
    lesion = os.environ.get("KLIP_ACCEPTANCE_LESION")
    pictures = Path(os.environ.get("KLIP_ACCEPTANCE_PICTURES", tmp_path))
    report = open_in_slicer(Path(ct), heatmap, segmentation, out=pictures, lesion=Path(lesion) if lesion else None)
    check_overlays(report)
