from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klip_monai.errors import InputError, OutputError
from klip_monai.io.write.atomic import publish


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


def test_files_in_place_are_refused_by_name_and_stay(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("earlier")

    def run() -> None:
        with publish(tmp_path) as staging:
            (staging / "a.txt").write_text("later")
            (staging / "b.txt").write_text("later")

    with pytest.raises(OutputError, match=r"b\.txt: already there.*choose another folder.*--overwrite"):
        run()
    assert os.listdir(tmp_path) == ["b.txt"]
    assert (tmp_path / "b.txt").read_text() == "earlier"


def test_a_case_is_not_put_beside_other_files_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "rival.txt").write_text("earlier")

    def run(**options: bool) -> None:
        with publish(tmp_path, rivals=["rival.txt", "other.txt"], **options) as staging:
            (staging / "a.txt").write_text("later")

    with pytest.raises(OutputError, match=r"rival\.txt: already there"):
        run()
    assert names(tmp_path) == ["rival.txt"]
    run(overwrite=True)
    assert names(tmp_path) == ["a.txt"]


def test_earlier_files_are_replaced_when_told_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("earlier")
    (tmp_path / "mine.txt").write_text("mine")
    with publish(tmp_path, overwrite=True) as staging:
        (staging / "a.txt").write_text("later")
    assert (tmp_path / "a.txt").read_text() == "later"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "mine.txt"]


@pytest.mark.parametrize("failing", ["a.txt", "b.txt", "c.txt"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_move_that_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, overwrite: bool
) -> None:
    link = os.link
    for name in ("a.txt", "c.txt") if overwrite else ():
        (tmp_path / name).write_text("earlier")

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, target)

    def run() -> None:
        with publish(tmp_path, overwrite=overwrite) as staging:
            for name in ("a.txt", "b.txt", "c.txt"):
                (staging / name).write_text("later")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OutputError, match="No space left"):
        run()
    assert sorted(os.listdir(tmp_path)) == (["a.txt", "c.txt"] if overwrite else [])
    assert {path.read_text() for path in tmp_path.iterdir()} <= {"earlier"}


def test_file_system_without_links_still_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def run() -> None:
        with publish(tmp_path) as staging:
            (staging / "a.txt").write_text("mine")

    monkeypatch.setattr(os, "link", refuse)
    run()
    assert (tmp_path / "a.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="already there"):
        run()


RACE = """
import sys, time
from klip_monai.errors import OutputError
from klip_monai.io.write import atomic
folder, me, locks = sys.argv[1:]
if locks == "without locks":
    def refuse(*_): raise OSError("no locks here")
    atomic.fcntl.flock = refuse
for case in range(40):
    while time.time() % 0.02 > 0.001: pass
    own = [f"{case}_{me}"] + [f"{case}_{n}" for n in range(5)]
    try:
        with atomic.publish(folder, rivals=[f"{case}_a", f"{case}_b"]) as staging:
            for name in own:
                (staging / name).write_text(me)
    except OutputError:
        pass
"""


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_of_two_processes_that_write_the_same_case_one_wins_whole(tmp_path: Path, locks: str) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    both = [subprocess.Popen([*command, me, locks]) for me in ("a", "b")]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    for case in range(40):
        found = {path.name.split("_")[1]: path.read_text() for path in tmp_path.glob(f"{case}_*")}
        (winner,) = set(found.values())
        assert set(found) == {*"01234", winner}


def test_named_file_is_moved_after_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    link = os.link

    def record(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        link(source, target)

    monkeypatch.setattr(os, "link", record)
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
