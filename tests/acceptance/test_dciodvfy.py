"""Every DICOM file that ships with the samples is valid in the eyes of an independent validator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

SAMPLE_DATA = Path(__file__).parents[2] / "sample_data"
FILES = sorted(SAMPLE_DATA.rglob("*.dcm"))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
@pytest.mark.skipif(not FILES, reason="sample_data holds no DICOM files")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SAMPLE_DATA).as_posix())
def test_sample_dicom_has_no_validation_error(path: Path) -> None:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
    report = (done.stdout + done.stderr).splitlines()
    errors = [line for line in report if line.startswith("Error")]
    assert not errors, "\n".join(errors)
    # A file that it cannot parse yields no error line either, but also no information object definition.
    assert report, f"dciodvfy said nothing about {path.name}"
