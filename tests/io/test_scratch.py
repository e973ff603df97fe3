"""Temporary folders: private, deleted at the end, and swept up after a process that was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from klip_monai.errors import OutputError
from klip_monai.io.pacs.scratch import scratch_folder, sweep

KILLED = """
import os, signal
from klip_monai.io.pacs.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "scan.dcm").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def fail_within(parent: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == parent
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "scan.dcm").touch()
        raise KeyError


def test_it_is_private_and_gone_at_the_end_also_after_an_error(temporary):
    with pytest.raises(KeyError):
        fail_within(temporary)
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(temporary):
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = temporary.iterdir()
    with scratch_folder() as first, scratch_folder() as second:
        sweep()
        assert {*temporary.iterdir()} == {first, second}
        assert left not in (first, second)


def test_links_are_not_followed(temporary):
    (temporary / "mine").mkdir()
    (temporary / "klip-scratch-link").symlink_to(temporary / "mine")
    sweep()
    assert (temporary / "mine").is_dir()


def test_no_place_for_it_is_said(temporary, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "gone"))
    with pytest.raises(OutputError, match="TMPDIR"), scratch_folder():
        pass
