"""The command line as a user meets it: what it writes, and how it refuses."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from command_line import klip_monai

from klip_monai import __version__
from klip_monai.bundle import DEFAULT_BUNDLE
from klip_monai.cli.options import out
from klip_monai.cli.score import _print_result
from klip_monai.io import read_volume
from klip_monai.io.names import case_name
from klip_monai.physics.factory import OPERATORS
from klip_monai.report.summary import Provenance, Source, Summary, Thresholds, Worst
from klip_monai.scan.output_files import DEFAULT_OUTPUTS, OUTPUTS, file_names
from klip_monai.scan.save import SavedCase
from klip_monai.scoring import Candidate

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().count("\n") == 0, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.fixture
def series(tmp_path) -> Path:
    """The six lowest slices of the healthy sample series, named in their order in space."""
    folder = tmp_path / "series"
    folder.mkdir()
    for path in (SAMPLES / "healthy").glob("*.dcm"):
        number = int(pydicom.dcmread(path, specific_tags=["InstanceNumber"]).InstanceNumber)
        if number <= 6:
            (folder / f"slice_{number}.dcm").write_bytes(path.read_bytes())
    return folder


def test_scoring_writes_all_files_on_the_grid_of_the_source(small_ct, tmp_path):
    command = ("score", small_ct, "--output", "out")
    result = klip_monai(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    name = case_name(read_volume(small_ct))
    names = file_names(name)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names.values())
    source = nib.load(small_ct)
    for kind in ("heatmap", "labels"):
        overlay = nib.load(tmp_path / "out" / names[kind])
        assert overlay.shape == source.shape
        np.testing.assert_allclose(overlay.affine, source.affine, atol=1e-4)
    summary = json.loads((tmp_path / "out" / names["summary"]).read_text())
    assert 0 < summary["p_value"] <= 1
    assert len(summary["slice_scores"]) == source.shape[2]
    assert "p-value" in result.stdout
    assert "candidates" in result.stdout
    assert "Slicer" in result.stdout
    assert name in result.stdout
    assert_refused(klip_monai(*command, cwd=tmp_path), f"out/{names['heatmap']}", "--overwrite", "another folder")


def found(rank: int, **changes: Any) -> Candidate:
    """A candidate of a summary with the longest numbers there are."""
    place, mm = (1, 2, 1234), (-123.4, 132.1, -1432.0)
    longest = Candidate(rank, place, mm, mm, 1234.56, (1.0, 1.0, 1.0), 0.01234, 0.01, 2, 0.0333, 0.0123)
    return replace(longest, **changes)


def closing_panel(candidates: Sequence[Candidate]) -> str:
    """What `score` says in the end, at 80 columns, without the frame."""
    summary = Summary(
        name="ct-0",
        source=Source("nifti", (1, 1, 1), (1.0, 1.0, 1.0), (), None),
        region=None,
        unit="nats per pixel",
        scan_score=0.0123,
        p_value=0.0333,
        worst=Worst((3, 4, 5), (-1.0, 2.0, 3.0), (5,)),
        slice_scores=(),
        volume_ml={"Suspicious": 1.0, "Strongly suspicious": 0.0},
        candidate_count=len(candidates),
        candidates=tuple(candidates),
        p_and_q="p: how likely. q: how false.",
        thresholds=Thresholds(0.1, 0.2, "", 29, 29, "29 healthy scans", 0.0333, 4, (0.1, 0.2), "", {}),
        remarks=(),
        provenance=Provenance("b", "1", "x"),
        versions={},
    )
    out.width = 80
    with out.capture() as captured:
        _print_result(SavedCase(summary, {}), "scan")
    lines = captured.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    return "\n".join(line.strip("│ ") for line in lines)


def test_closing_panel_names_the_first_three_candidates_in_a_line_each():
    panel = closing_panel([found(n, voxel=(1, 2, n + 20)) for n in range(1, 6)])
    for n in (1, 2, 3):
        assert f"\n{n}    {n + 20} L 123 A 132 I 1432 1234.6 0.0123 0.033 0.012\n" in panel
    assert "I 1432" not in panel.split("\n3    23")[1].split("\n", 1)[1], "no fourth"
    assert "The first 3 of 5. p: how likely. q: how false." in " ".join(panel.split())
    assert "worst" not in panel


def test_closing_panel_has_no_column_of_q_where_it_is_not_known():
    assert "p     q" in closing_panel([found(1)])
    panel = closing_panel([found(1, q=None)])
    assert "peak     p\n" in panel
    assert "The first" not in panel


def test_closing_panel_of_a_scan_without_candidates_tells_the_highest_voxel():
    assert "none; the highest voxel is in slice 5, L 1 A 2 S 3 mm" in " ".join(closing_panel([]).split())


def test_chosen_outputs_of_a_dicom_series_are_written_and_no_others(series, tmp_path):
    chosen = ("dicom-seg", "dicom-pm", "dicom-pdf", "scene")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "series_overlay.seg.nrrd").write_text("of an earlier run")
    options = ("--outputs", ",".join(chosen), "--bundle", "klip_ct_phantom", "--keep-names", "--overwrite")
    result = klip_monai("score", series, "-o", tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    names = file_names("series", chosen)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names.values())
    source = pydicom.dcmread(next(series.iterdir()))
    for kind, modality in (("dicom_seg", "SEG"), ("dicom_pm", "OT"), ("dicom_pdf", "DOC")):
        written = pydicom.dcmread(tmp_path / "out" / names[kind])
        assert written.Modality == modality
        assert written.StudyInstanceUID == source.StudyInstanceUID
    with ZipFile(tmp_path / "out" / names["scene"]) as scene:
        content = {name: scene.read(name) for name in scene.namelist()}
    for name, text in content.items():
        text = gzip.decompress(text) if name.endswith(".gz") else text
        for tag in ("PatientID", "PatientName", "StudyInstanceUID"):
            assert str(source[tag].value).encode() not in text
    summary = json.loads((tmp_path / "out" / names["summary"]).read_text())
    assert summary["notice"] in content["scene/scene.mrml"].decode()


def test_view_without_a_scene_says_how_to_get_one(tmp_path):
    assert_refused(klip_monai("view", tmp_path), "--outputs scene")


@pytest.mark.parametrize(("outputs", "word"), [("nifti,scene3", "scene3"), ("dicom-seg", "DICOM")])
def test_outputs_that_cannot_be_are_refused_before_any_work(small_ct, tmp_path, outputs, word):
    assert_refused(klip_monai("score", small_ct, "-o", tmp_path / "out", "--outputs", outputs), "outputs", word)
    assert not (tmp_path / "out").exists()


def test_same_seed_gives_identical_overlays_and_another_seed_does_not(small_ct, tmp_path):
    heatmaps = []
    for run, seed in enumerate((0, 0, 1)):
        result = klip_monai("score", small_ct, "-o", tmp_path / str(run), "--seed", seed, "--bundle", "klip_ct_phantom")
        assert result.returncode == 0, result.stderr
        (heatmap,) = (tmp_path / str(run)).glob("*_heatmap.nii.gz")
        heatmaps.append(heatmap.read_bytes())
    assert heatmaps[0] == heatmaps[1]
    assert heatmaps[0] != heatmaps[2]


def test_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(klip_monai("score", tmp_path / "empty", "-o", tmp_path / "out"), "empty")
    assert not (tmp_path / "out").exists()


def test_missing_path_is_refused(tmp_path):
    assert_refused(klip_monai("score", tmp_path / "nowhere", "-o", tmp_path / "out"), "nowhere", "does not exist")


def test_text_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a scan")
    assert_refused(klip_monai("score", tmp_path / "notes.txt", "-o", tmp_path / "out"), "notes.txt")


def test_truncated_file_is_refused(series, tmp_path):
    path = sorted(series.iterdir())[2]
    path.write_bytes(path.read_bytes()[:-5000])
    assert_refused(klip_monai("score", series, "-o", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_two_series_are_listed_and_one_can_be_chosen(series, tmp_path):
    other = pydicom.uid.generate_uid()
    for path in list(series.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = other, pydicom.uid.generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(series / f"other_{path.name}")
    first = pydicom.dcmread(next(p for p in series.iterdir() if not p.name.startswith("other"))).SeriesInstanceUID
    refused = klip_monai("score", series, "-o", tmp_path / "out")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    for word in (first, other, "series-uid"):
        assert word in refused.stderr
    chosen = klip_monai("score", series, "-o", tmp_path / "out", "--series-uid", first)
    assert chosen.returncode == 0, chosen.stderr


def test_missing_slice_is_refused_naming_the_gap(series, tmp_path):
    sorted(series.iterdir())[3].unlink()
    assert_refused(klip_monai("score", series, "-o", tmp_path / "out"), "5.00 mm", "10.00 mm")


def test_mr_series_is_refused(series, tmp_path):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality, dataset.SOPClassUID = "MR", pydicom.uid.MRImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        dataset.save_as(path)
    assert_refused(klip_monai("score", series, "-o", tmp_path / "out"), "MR", "CT")


def test_two_slices_are_refused(series, tmp_path):
    for path in sorted(series.iterdir())[2:]:
        path.unlink()
    assert_refused(klip_monai("score", series, "-o", tmp_path / "out"), "2", "3")


def test_unknown_bundle_is_refused_naming_those_there_are(small_ct, tmp_path):
    assert_refused(klip_monai("score", small_ct, "-o", tmp_path, "--bundle", "nothing"), "nothing", "klip_ct_phantom")


def test_folder_that_is_no_bundle_is_refused(small_ct, tmp_path):
    assert_refused(klip_monai("score", small_ct, "-o", tmp_path / "out", "--bundle", tmp_path), "metadata.json")


def test_views_of_a_measurement_without_any_are_refused(small_ct, tmp_path):
    result = klip_monai("score", small_ct, "-o", tmp_path / "out", "--views", 17)
    assert_refused(result, "--views", "identity", "--operator sparse_view")
    assert not (tmp_path / "out").exists()


def test_settings_without_a_reference_are_refused(small_ct, tmp_path):
    result = klip_monai("score", small_ct, "-o", tmp_path / "out", "--operator", "sparse_view", "--views", 17)
    assert_refused(result, "ID reference", "calibrate")
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_refused_before_scoring(small_ct, tmp_path):
    (tmp_path / "out").write_text("taken")
    assert_refused(klip_monai("score", small_ct, "-o", tmp_path / "out"), "out")
    assert (tmp_path / "out").read_text() == "taken"


def test_limited_angle_beyond_its_range_is_refused(small_ct, tmp_path):
    command = ("score", small_ct, "-o", tmp_path / "out", "--operator", "limited_angle", "--angle-range", 180)
    assert_refused(klip_monai(*command), "angle_range", "180")


def test_wrong_option_ends_with_two(small_ct, tmp_path):
    result = klip_monai("score", small_ct, "-o", tmp_path, "--operator", "magic")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_bundles_lists_those_that_are_shipped():
    result = klip_monai("bundles")
    assert result.returncode == 0
    for name in ("klip_ct_abdomen", "klip_ct_phantom"):
        assert name in result.stdout


def test_importing_the_package_is_light():
    code = "import sys, klip_monai; print([m for m in ('torch', 'astra', 'highdicom', 'monai') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_names_what_is_taken_by_default():
    shown = " ".join(klip_monai("score", "--help").stdout.replace("│", " ").split())
    assert f"[default: {DEFAULT_BUNDLE}]" in shown
    assert f"[default: {','.join(DEFAULT_OUTPUTS)}]" in shown
    for output in OUTPUTS:
        assert f" {output} " in shown
    assert shown.count("[default: the bundle's]") == 6
    for setting in {setting for takes in OPERATORS.values() for setting in takes}:
        assert setting in shown or setting in ("views", "angle_range")


def test_square_brackets_in_a_path_are_not_taken_for_markup(tmp_path):
    assert_refused(klip_monai("score", tmp_path / "no[such]scan.nii", "--output", tmp_path / "out"), "no[such]scan.nii")


def test_the_version_is_printed():
    result = klip_monai("--version")
    assert (result.returncode, result.stdout) == (0, f"klip-monai {__version__}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_cuda_device_that_there_is_not_is_refused_in_a_line(tmp_path):
    result = klip_monai("score", SAMPLES / "lesion.nii.gz", "-o", tmp_path / "out", "--device", "cuda")
    assert_refused(result, "device: got cuda, expected cpu or auto")
