from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("slicer_render.py")
SlicerReport = dict[str, Any]


@pytest.fixture(scope="session")
def open_in_slicer() -> Callable[..., SlicerReport]:
    """Load files with 3D Slicer's core in its own Python; gives what Slicer understood and where the pictures are."""
    python = os.environ.get("KLIP_SLICER_PYTHON")
    if not python:
        pytest.skip("KLIP_SLICER_PYTHON is not set to a Python that holds slicer-core and trame-slicer")

    def run(
        ct: Path,
        heatmap: Path,
        segmentation: Path,
        *,
        out: Path,
        lesion: Path | None = None,
        scale: tuple[float, float] | None = None,
    ) -> SlicerReport:
        command = [python, SCRIPT, "--ct", ct, "--heatmap", heatmap, "--segmentation", segmentation, "--out", out]
        command += ["--lesion", lesion] if lesion else []
        command += ["--range", *scale] if scale else []
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "ERR|" not in done.stderr, done.stderr[-4000:]
        (out / "report.json").write_text(done.stdout, encoding="utf-8")
        report: SlicerReport = json.loads(done.stdout)
        return report

    return run
