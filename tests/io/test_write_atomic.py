from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from klip_monai.errors import InputError, OutputError
from klip_monai.io.atomic import publish


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_appear_only_when_all_are_complete(tmp_path: Path) -> None:
    output = tmp_path / "new" / "case"
    with publish(output) as staging:
        (staging / "a.txt").write_text("a")
        (staging / "sub").mkdir()
        (staging / "sub" / "b.txt").write_text("b")
        assert not (output / "a.txt").exists()
    assert names(output) == ["a.txt", "sub/b.txt"]


def test_failure_keeps_the_files_of_an_earlier_run_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("earlier")

    def run() -> None:
        with publish(tmp_path) as staging:
            (staging / "a.txt").write_text("later")
            raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        run()
    assert names(tmp_path) == ["a.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "earlier"


def test_earlier_files_are_replaced_on_success_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("earlier")
    (tmp_path / "mine.txt").write_text("mine")
    with publish(tmp_path) as staging:
        (staging / "a.txt").write_text("later")
    assert (tmp_path / "a.txt").read_text() == "later"
    assert names(tmp_path) == ["a.txt", "mine.txt"]


def test_named_file_is_moved_after_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace

    def record(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    with publish(tmp_path, last="a.json") as staging:
        for name in ("a.json", "b.png", "c.nii.gz"):
            (staging / name).write_text(name)
    assert moved == ["b.png", "c.nii.gz", "a.json"]


def test_missing_completing_file_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"summary\.json"), publish(tmp_path, last="summary.json") as staging:
        (staging / "a.txt").write_text("a")
    assert not list(tmp_path.iterdir())


def test_output_that_is_a_file_is_one_line_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    expected = pytest.raises(OutputError, match=r"taken: cannot be written to .*choose another output")
    with expected as error, publish(tmp_path / "taken"):
        pytest.fail("the block must not run")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), publish(tmp_path):
        pytest.fail("the block must not run")


def test_folder_in_the_place_of_a_file_publishes_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()

    def run() -> None:
        with publish(tmp_path) as staging:
            (staging / "a.txt").write_text("a")
            (staging / "b.txt").write_text("b")

    with pytest.raises(OutputError, match=r"b\.txt: got a folder"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_full_disk_is_an_output_error_and_an_unreadable_input_is_not(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), publish(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), publish(tmp_path):
        (tmp_path / "elsewhere" / "input.dcm").read_bytes()
