"""The README's main job on the sample series: the planted lesion is found, and 3D Slicer shows it where it lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread
from slicer_checks import check_overlays

from klip_monai.evaluation import dice
from klip_monai.io.names import pseudonym
from klip_monai.scoring import islands

pytestmark = pytest.mark.acceptance

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sample series, scored by the command line as the README does."""
    output = tmp_path_factory.mktemp("scored")
    for name in ("healthy", "lesion"):
        command = [sys.executable, "-m", "klip_monai.cli", "score", str(SAMPLES / name), "--output", str(output)]
        command += ["--bundle", "klip_ct_phantom"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
    return output


def file(scored: Path, series: str, ending: str) -> Path:
    """A file of the case of a sample series."""
    header = dcmread(next((SAMPLES / series).glob("*.dcm")), stop_before_pixels=True)
    return scored / f"{pseudonym(header.SeriesInstanceUID)}_{ending}"


def test_planted_lesion_is_found(scored: Path) -> None:
    image = nib.load(file(scored, "lesion", "labels.nii.gz"))
    truth = nib.load(SAMPLES / "lesion_mask.nii.gz")
    np.testing.assert_allclose(image.affine, truth.affine, atol=1e-4)
    labels = np.asarray(image.dataobj)
    _, box, _, inside = islands(labels, voxel_ml=1.0)[0]
    largest = np.zeros(labels.shape, bool)
    largest[box] = inside
    assert dice(torch.from_numpy(largest), torch.from_numpy(np.asarray(truth.dataobj) > 0)) >= 0.5
    summary: dict[str, Any] = json.loads(file(scored, "lesion", "summary.json").read_text())
    assert summary["p_value"] <= 0.05


def test_healthy_sample_has_no_strongly_suspicious_island_over_one_ml(scored: Path) -> None:
    image = nib.load(file(scored, "healthy", "labels.nii.gz"))
    voxel_ml = float(np.prod(image.header.get_zooms()[:3])) / 1000
    strong = np.asarray(image.dataobj) == 2
    assert all(volume <= 1.0 for _, _, volume, _ in islands(strong, voxel_ml=voxel_ml))


def test_overlays_of_the_dicom_series_lie_on_the_lesion_in_slicer(
    scored: Path, open_in_slicer: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("KLIP_ACCEPTANCE_PICTURES", tmp_path))
    report = open_in_slicer(
        SAMPLES / "lesion",
        file(scored, "lesion", "heatmap.nii.gz"),
        file(scored, "lesion", "overlay.seg.nrrd"),
        out=pictures,
        lesion=SAMPLES / "lesion_mask.nii.gz",
    )
    check_overlays(report)
    lesion = np.reshape(report["lesion"]["bounds"], (3, 2))
    strong = np.reshape(report["segments"][1]["bounds"], (3, 2))
    assert (strong[:, 0] < lesion.mean(axis=1)).all()
    assert (strong[:, 1] > lesion.mean(axis=1)).all()
    np.testing.assert_allclose(strong, lesion, atol=25.0)


@pytest.mark.parametrize("name", ["kits00072_partial", "totalseg_j2k"])
def test_real_series_are_scored_on_their_own_grid(shared_data: Path, tmp_path: Path, name: str) -> None:
    """By the default bundle, some of whose training slices these are: where overlays lie counts, not what they say."""
    SimpleITK = pytest.importorskip("SimpleITK")
    with ZipFile(shared_data / "series" / f"{name}.zip") as archive:
        archive.extractall(tmp_path / name)
    command = [sys.executable, "-m", "klip_monai.cli", "score", str(tmp_path / name), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    reader = SimpleITK.ImageSeriesReader()
    files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    source = reader.Execute()
    (heatmap,) = (tmp_path / "out").glob("*_heatmap.nii.gz")
    overlay = SimpleITK.ReadImage(str(heatmap))
    assert overlay.GetSize() == source.GetSize()
    for corner in ((0, 0, 0), tuple(n - 1 for n in source.GetSize())):
        a, b = (np.array(i.TransformIndexToPhysicalPoint(corner)) for i in (source, overlay))
        np.testing.assert_allclose(a, b, atol=1e-3)
