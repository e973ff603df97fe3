from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from planted_case import BLOB_PEAK, MARKED_VOXELS, Case, write_case

from klip_monai.report.scene import write_scene
from klip_monai.report.shown import Shown

SCRIPT = Path(__file__).with_name("slicer_render.py")
SlicerReport = dict[str, Any]


@pytest.fixture(scope="session")
def slicer_python() -> str:
    """The Python of 3D Slicer's core."""
    python = os.environ.get("KLIP_SLICER_PYTHON")
    if not python:
        pytest.skip("KLIP_SLICER_PYTHON is not set to a Python that holds slicer-core and trame-slicer")
    return python


@pytest.fixture(scope="session")
def oblique_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The planted case, on a grid turned about two axes."""
    return write_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="session")
def planted_scene(oblique_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted case as a scene."""
    case = oblique_case
    places = nib.affines.apply_affine(case.affine, MARKED_VOXELS).tolist()
    return write_scene(
        tmp_path_factory.mktemp("scene") / "planted.mrb",
        Shown(case.ct_hu, case.nats, case.labels, case.affine, (0.25 * BLOB_PEAK, BLOB_PEAK), places=places),
        title="planted",
        lines=["Scan score 0.1 nats per pixel, p = 0.032", "against 30 healthy scans", "Not for diagnosis."],
    )


@pytest.fixture(scope="session")
def open_in_slicer(slicer_python: str) -> Callable[..., SlicerReport]:
    """Load files with 3D Slicer's core in its own Python; gives what Slicer understood and where the pictures are."""

    def run(
        ct: Path,
        heatmap: Path,
        segmentation: Path,
        *,
        out: Path,
        lesion: Path | None = None,
        scale: tuple[float, float] | None = None,
    ) -> SlicerReport:
        command = [
            slicer_python,
            SCRIPT,
            "--ct",
            ct,
            "--heatmap",
            heatmap,
            "--segmentation",
            segmentation,
            "--out",
            out,
        ]
        command += ["--lesion", lesion] if lesion else []
        command += ["--range", *scale] if scale else []
        return _report(command)

    return run


@pytest.fixture(scope="session")
def scene_in_slicer(slicer_python: str, planted_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> SlicerReport:
    """What 3D Slicer's core understood of the planted scene, and where its pictures are."""
    out = Path(os.environ.get("KLIP_ACCEPTANCE_PICTURES", tmp_path_factory.mktemp("scene_pictures")))
    return _report([slicer_python, SCRIPT.with_name("slicer_scene.py"), planted_scene, out])


def _report(command: list[object]) -> SlicerReport:
    """What a script printed that ran without an error of Slicer's."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ERR|" not in done.stderr, done.stderr[-4000:]
    report: SlicerReport = json.loads(done.stdout)
    return report
