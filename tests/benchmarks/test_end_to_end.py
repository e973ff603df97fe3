from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest

from klip_monai import __version__
from klip_monai.benchmarks import end_to_end
from klip_monai.benchmarks.launcher import main as launch
from klip_monai.benchmarks.processes import THIS, Release, release_at, run_python
from klip_monai.errors import InputError


def test_a_series_is_scored_and_time_and_memory_told(subject, assert_measured, tmp_path):
    path = subject.series.write(tmp_path / "series.nii.gz")
    assert nib.load(path).shape == (96, 96, 3)
    (row,) = end_to_end.measure(replace(subject, path=path))
    assert_measured([row])
    assert row.cost.wall_s >= row.figures["read_s"] + row.figures["score_s"] + row.figures["write_s"]
    assert 0.2 < row.figures["peak_gb"] < 20


def test_two_releases_take_turns_and_are_compared(subject, assert_measured, monkeypatch):
    scored = []

    def run(release, *_, **__):
        scored.append(release.version)
        cost = end_to_end.Cost(cpu_s=1.0 if release is THIS else 4.0, wall_s=2.0)
        return end_to_end.Scored(cost, peak_bytes=1, parts={})

    monkeypatch.setattr(end_to_end, "score", lambda path, output, *, release, subject: output.mkdir() or run(release))
    this, other = end_to_end.measure(replace(subject, against=Release("0.0.1", "python"), repeats=2))
    assert scored == [__version__, "0.0.1"] * 2
    assert_measured([this, other])
    assert this.figures["cpu_ratio"] == 0.25
    assert "CPU 0.25 of the other's" in this.remark


def test_the_memory_of_a_program_is_its_own(tmp_path):
    held = bytearray(500_000_000)  # of this process, which starts the other
    assert len(held) < 2 * run_python(THIS, ["-c", "bytearray(300_000_000)"]).peak_bytes < 2 * len(held)
    assert launch(str(tmp_path / "report.json"), sys.executable, "-c", "raise SystemExit(3)") == 3
    assert json.loads((tmp_path / "report.json").read_text()).keys() == {"cpu_s", "wall_s", "peak_bytes"}


def test_a_run_that_fails_says_why():
    with pytest.raises(InputError, match=r"in a process of its own: ValueError: no such luck"):
        run_python(THIS, ["-c", "raise ValueError('no such luck')"])


def test_another_release_is_that_of_its_interpreter(tmp_path, monkeypatch):
    package = tmp_path / "elsewhere" / "klip_monai"
    (package / "cli").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '9.9'")
    (package / "cli" / "__init__.py").touch()
    # The interpreter of an environment that has another klip_monai.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert release_at(python) == Release("9.9", str(python))


@pytest.mark.parametrize("program", ["nowhere/python", "/bin/true", "/bin/false"])
def test_what_is_no_interpreter_with_klip_monai_is_refused(program):
    with pytest.raises(InputError, match=r"--against: got '.*', expected the Python interpreter of an environment"):
        release_at(Path(program))
