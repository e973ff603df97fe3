"""`klip-monai bench` as a user meets it."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import klip_monai

from klip_monai.benchmarks import NAMES, QUICK, sections
from klip_monai.benchmarks.cost import Cost, Row
from klip_monai.cli import bench


@pytest.fixture
def quick_sections(monkeypatch):
    """Sections that measure nothing."""
    for name in NAMES:
        row = Row(f"what {name} measures", Cost(0.0123, 1.5), "slice", "a [remark]", {"passes": 8})
        monkeypatch.setitem(sections.SECTIONS, name, lambda subject, row=row: [row])


def test_the_table_has_the_machine_and_the_sections_asked_for(quick_sections, tmp_path):
    threads = torch.get_num_threads()
    options = ("--bundle", "klip_ct_phantom", "--device", "cpu", "--threads", 1, "--json", "figures.json")
    result = klip_monai("bench", "crop", "operators", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("1 thread", "klip_ct_phantom", "crop", "what crop measures", "12.3 ms", "1.50 s", "a [remark]"):
        assert words in result.stdout
    assert "what levels measures" not in result.stdout
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["machine"]["threads"] == 1
    assert [row["section"] for row in written["rows"]] == ["crop", "operators"]
    assert written["rows"][0]["cost"] == {"cpu_s": 0.0123, "wall_s": 1.5}
    assert torch.get_num_threads() == threads


def test_the_quick_sections_are_measured_by_default(quick_sections):
    result = klip_monai("bench", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    named = [name for name in NAMES if f"what {name} measures" in result.stdout]
    assert named == list(QUICK)


def test_the_help_names_all_sections():
    text = klip_monai("bench", "--help").stdout
    assert all(name in text for name in NAMES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["levles"], ["levles", "expected some of precision"]),
        (["end-to-end", "--input", "nowhere"], ["--input", "nowhere", "does not exist"]),
        (["crop", "--input", "."], ["--input", "add end-to-end"]),
        (["end-to-end", "--against", "/bin/true"], ["--against", "/bin/true", "expected the Python"]),
        (["--bundle", "klip_ct_knee"], ["klip_ct_knee", "expected a bundle"]),
    ],
)
def test_bad_input_is_refused_before_the_work(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "import_libraries", None)
    result = klip_monai("bench", *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().count("\n") == 0, result.stderr
    for word in words:
        assert word in result.stderr
