from __future__ import annotations

import sys
from pathlib import Path

import pytest

from klip_monai.errors import InputError
from klip_monai.viewer import find_scene, slicer_python


def test_scene_is_found_by_itself_by_the_summary_and_by_the_folder(tmp_path: Path) -> None:
    scene, summary = tmp_path / "case.mrb", tmp_path / "case_summary.json"
    scene.touch()
    summary.touch()
    assert [find_scene(place) for place in (scene, summary, tmp_path)] == [scene] * 3


def test_folder_with_several_scenes_names_them(tmp_path: Path) -> None:
    for name in ("a.mrb", "b.mrb"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"2 scenes \(a.mrb, b.mrb\)"):
        find_scene(tmp_path)


@pytest.mark.parametrize("name", ["", "case_summary.json", "case.mrb", "case.nii.gz"])
def test_case_without_a_scene_says_how_to_get_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "case.nii.gz").touch()
    with pytest.raises(InputError, match="--outputs scene"):
        find_scene(tmp_path / name)


def test_python_without_slicer_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLIP_SLICER_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"klip-monai\[viewer\]"):
        slicer_python()
    monkeypatch.setattr("klip_monai.viewer._HAS_SLICER", "raise SystemExit(1)")
    monkeypatch.setenv("KLIP_SLICER_PYTHON", sys.executable)
    with pytest.raises(InputError, match="KLIP_SLICER_PYTHON"):
        slicer_python()
    monkeypatch.setattr("klip_monai.viewer._HAS_SLICER", "")
    assert slicer_python() == sys.executable
