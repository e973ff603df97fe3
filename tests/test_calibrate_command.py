"""`klip-monai calibrate` refuses what it can before it works."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import klip_monai
from test_cli import assert_refused

PHANTOMS = ("calibrate", "--bundle", "klip_ct_phantom", "--phantoms", 19)


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--null-scans", "scans"), ("--null-scans", "--null context")),
        (("--null", "context"), ("--null context", "--null-scans FOLDER", "--null contrast")),
        (("--null", "context", "--null-scans", "nowhere"), ("--null-scans", "nowhere")),
        (("--split", "val"), ("--split", "--slice-set")),
        (("--null", "magic"), ("--null", "magic")),
        (("--output", "scans"), ("--output", "scans", ".json")),
        (("--output", "weights.safetensors"), ("--output", "weights.safetensors", ".json")),
    ],
)
def test_what_does_not_fit_together_is_refused(options, words, scans):
    result = klip_monai(*PHANTOMS, *options, cwd=scans.parent)
    assert result.returncode == 2
    for word in words:
        assert word in " ".join(result.stderr.replace("│", " ").split()), result.stderr


def test_a_null_is_not_fitted_to_the_people_it_is_for(scans):
    command = ("calibrate", "--bundle", "klip_ct_phantom", "--null", "context", "--healthy", scans)
    assert_refused(klip_monai(*command, "--null-scans", scans), "--null-scans", "other people")
    result = klip_monai("calibrate", "--slice-set", scans, "--split", "a", "--null-split", "a")
    assert_refused(result, "--null-split", "other people")
