"""Scenes for 3D Slicer: what is in the file; that Slicer shows it is for the acceptance tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from klip_monai.errors import InputError
from klip_monai.report.mrml import scene_mrml
from klip_monai.report.preview_geometry import PreviewScan
from klip_monai.report.scene import write_scene
from klip_monai.report.shown import Shown

SHAPE, WORST = (12, 10, 6), (3, 7, 4)
SCALE = (0.01, 0.05)
TOLD: dict[str, Any] = {"title": "case", "lines": ["score 1", "not for diagnosis"]}


def scan(affine: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """CT, heat map, labels and affine of a small scan with one worst voxel."""
    ct, heatmap = np.full(SHAPE, 40.0, np.float32), np.zeros(SHAPE, np.float32)
    heatmap[WORST] = 0.1
    return ct, heatmap, (heatmap > 0.05).astype(np.uint8), np.diag([-2.0, -2.0, 4.0, 1.0]) if affine is None else affine


def nodes(path: Path) -> list[ElementTree.Element]:
    with ZipFile(path) as archive:
        return list(ElementTree.fromstring(archive.read("scene/scene.mrml")))


def test_scene_holds_the_scan_on_its_own_grid(tmp_path: Path) -> None:
    ct, heatmap, labels, affine = scan()
    with ZipFile(write_scene(tmp_path / "case.mrb", Shown(ct, heatmap, labels, affine, SCALE), **TOLD)) as archive:
        archive.extractall(tmp_path)
    for name, values in (("ct", ct), ("heatmap", heatmap)):
        image = nib.load(tmp_path / "scene" / "Data" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), values)
        np.testing.assert_allclose(image.affine, affine)
    assert (tmp_path / "scene" / "Data" / "segments.seg.nrrd").is_file()


@pytest.mark.parametrize("places", [[], [(1.0, 2.0, 3.0)]])
def test_every_file_and_node_that_is_referred_to_exists(tmp_path: Path, places: list[tuple[float, ...]]) -> None:
    path = write_scene(tmp_path / "case.mrb", Shown(*scan(), SCALE, places=places), **TOLD)
    found = nodes(path)
    identifiers = [node.attrib["id"] for node in found]
    assert len(set(identifiers)) == len(identifiers)
    for node in found:
        for _, targets in re.findall(r"(\w+):([^;]+);", node.get("references", "")):
            assert set(targets.split()) <= set(identifiers)
    with ZipFile(path) as archive:
        names = {name.removeprefix("scene/") for name in archive.namelist()}
    assert {node.attrib["fileName"] for node in found if "fileName" in node.attrib} == names - {"scene.mrml"}


def test_whole_hounsfield_units_take_two_bytes_and_others_stay_exact(tmp_path: Path) -> None:
    for shift, kind in ((0.0, np.int16), (0.25, np.float32), (40_000.0, np.float32)):
        ct, *rest = scan()
        with ZipFile(
            write_scene(tmp_path / "case.mrb", Shown(ct + np.float32(shift), *rest, SCALE), **TOLD)
        ) as archive:
            archive.extract("scene/Data/ct.nii.gz", tmp_path)
        image = nib.load(tmp_path / "scene" / "Data" / "ct.nii.gz")
        assert image.get_data_dtype() == kind
        np.testing.assert_array_equal(np.asarray(image.dataobj), ct + np.float32(shift))


def test_places_are_points_in_lps_millimetres_that_no_click_moves(tmp_path: Path) -> None:
    places = [(1.5, -2.0, 3.0), (0.0, 4.25, -5.0)]
    path = write_scene(tmp_path / "case.mrb", Shown(*scan(), SCALE, places=places), **TOLD)
    with ZipFile(path) as archive:
        (markup,) = json.loads(archive.read("scene/Data/candidates.mrk.json"))["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["locked"]) == ("Fiducial", "LPS", True)
    points = markup["controlPoints"]
    assert [(point["label"], point["position"]) for point in points] == [("1", [-1.5, 2.0, 3.0]), ("2", [0, -4.25, -5])]
    (node,) = [node for node in nodes(path) if node.tag == "MarkupsFiducial"]
    assert (node.attrib["name"], node.attrib["locked"]) == ("case candidates", "true")


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        write_scene(tmp_path / name, Shown(*scan(), SCALE), **TOLD).read_bytes() for name in ("a.mrb", "b.mrb")
    )
    assert first == second


def test_titles_and_texts_with_markup_and_other_scripts_come_back(tmp_path: Path) -> None:
    told = TOLD | {"title": 'a<b>&"c" \u00e4', "lines": ["p < 0.05 & more", "two"]}
    found = nodes(write_scene(tmp_path / "case.mrb", Shown(*scan(), SCALE), **told))
    text = next(node for node in found if node.tag == "Text")
    assert text.attrib["text"].splitlines() == told["lines"]
    assert text.attrib["name"] == f"{told['title']} summary"


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 5)] * 3),
    mirrored=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_slices_run_along_the_voxel_axes_through_the_worst_voxel(
    angles: tuple[float, ...], spacing: tuple[float, ...], mirrored: bool
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 0] *= -1 if mirrored else 1
    affine[:3, 3] = 30.0, -40.0, 500.0
    found = ElementTree.fromstring(scene_mrml(PreviewScan(*scan()[:3], affine), unit="nats", scale=SCALE, **TOLD))
    worst = affine @ [*WORST, 1.0]
    for view in found.iter("Slice"):
        matrix = np.array(view.attrib["sliceToRAS"].split(), float).reshape(4, 4)
        assert np.linalg.solve(matrix, worst)[2] == pytest.approx(0.0, abs=1e-4)
        np.testing.assert_allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=1e-6)
        along = np.abs(matrix[:3, :3].T @ affine[:3, :3] / spacing)
        np.testing.assert_allclose(np.sort(along, axis=None), [0] * 6 + [1] * 3, atol=1e-6)
    crosshair = next(found.iter("Crosshair")).attrib["crosshairRAS"]
    np.testing.assert_allclose(np.array(crosshair.split(), float), worst[:3], atol=1e-4)


def test_sheared_axes_and_what_does_not_fit_are_refused(tmp_path: Path) -> None:
    ct, heatmap, labels, affine = scan()
    sheared = affine.copy()
    sheared[1, 2] = 1.0
    path = tmp_path / "case.mrb"
    with pytest.raises(InputError, match="not perpendicular"):
        Shown(ct, heatmap, labels, sheared, SCALE)
    with pytest.raises(InputError, match=r"ending in \.mrb"):
        write_scene(tmp_path / "case.zip", Shown(ct, heatmap, labels, affine, SCALE), **TOLD)
    with pytest.raises(InputError, match="one \\(X, Y, Z\\) for all three"):
        Shown(ct[1:], heatmap, labels, affine, SCALE)
    with pytest.raises(InputError, match="low below high"):
        Shown(ct, heatmap, labels, affine, (1.0, 1.0))
    assert not path.exists()
