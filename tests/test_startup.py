"""What the command line imports, and when: a mistake in the command costs no import of PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"
SERIES, NIFTI = str(SAMPLES / "lesion"), str(SAMPLES / "lesion.nii.gz")
HEAVY = {"torch", "monai", "matplotlib", "highdicom", "astra", "sklearn"}


def in_new_process(code: str, *args: str) -> dict[str, Any]:
    """What some lines leave as `result`, with the `modules` that were imported for it and what went to stderr."""
    lines = [
        "import json, sys",
        "result = None",
        code,
        "print(json.dumps({'result': result, 'modules': sorted(sys.modules)}))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines), *args], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {"result": told["result"], "modules": set(told["modules"]), "stderr": done.stderr}


def command(*args: str) -> dict[str, Any]:
    """A command in a process of its own; the result is its exit code."""
    code = "from klip_monai.cli import main\ntry:\n    main()\nexcept SystemExit as done:\n    result = done.code"
    return in_new_process(code, *args)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["score", "no_such_scan"], "which does not exist"),
        (["score", str(SAMPLES / "README.md")], "of no known format"),
        (["score", NIFTI, "--series-uid", "1.2.3"], "expected it with DICOM only"),
        (["score", NIFTI, "--outputs", "dicom-seg"], "expected a DICOM scan"),
        (["score", SERIES, "--outputs", "nifty"], "got nifty, expected some of nifti"),
        (["score", SERIES, "--output", __file__], "cannot be written to"),
        (["score", SERIES, "--bundle", "klip_ct_head"], "expected a bundle's folder or one of klip_ct_abdomen"),
        (["score", SERIES, "--operator-option", "vews=3"], "expected KEY=VALUE"),
        (["score", "--sinogram", "data.npy", "--output", __file__], "cannot be written to"),
        (["score", "--sinogram", "no_such_data.npy"], "which is no file"),
        (["screen", SERIES, "--outputs", "nifty"], "got nifty, expected some of nifti"),
        (["screen", SERIES, "--bundle", "klip_ct_head"], "expected a bundle's folder or one of klip_ct_abdomen"),
        (["bench", "levles"], "got levles, expected some of precision"),
        (["bench", "end-to-end", "--input", "no_such_scan"], "does not exist"),
        (["bench", "end-to-end", "--against", "no_such_python"], "expected the Python interpreter"),
        (["bench", "--bundle", "klip_ct_head"], "expected a bundle's folder or one of klip_ct_abdomen"),
        (["bench", "--json", str(SAMPLES)], "expected a file"),
    ],
)
def test_what_was_asked_wrongly_is_refused_before_anything_heavy_is_imported(tmp_path, args, words):
    output = [] if "--output" in args or args[0] == "bench" else ["--output", str(tmp_path / "out")]
    refused = command(*args, *output)
    assert refused["result"] == 2
    assert words in refused["stderr"]
    assert refused["modules"] & HEAVY == set()


def test_listing_series_imports_none_of_what_scores_them():
    listed = command("inspect", SERIES)
    assert listed["result"] in (0, None)
    assert listed["modules"] & HEAVY == set()


def test_a_scan_is_read_and_a_bundle_opened_with_what_they_need_only():
    code = """
import gc
from klip_monai.bundle import find_bundle
from klip_monai.cli.options import open_scorer
from klip_monai.io.read import read_volume
open_scorer(find_bundle("klip_ct_abdomen"))
read_volume(sys.argv[1])
result = [gc.isenabled(), gc.get_freeze_count()]
"""
    opened = in_new_process(code, SERIES)
    collecting, never_searched = opened["result"]
    assert collecting
    assert never_searched > 100_000
    ours = {f"klip_monai.{name}" for name in ("evaluation", "training", "phantom", "screening", "viewer")}
    others = {"highdicom", "astra", "dask", "pyarrow", "pandas", "torch._dynamo"}
    assert opened["modules"] & (ours | others) == set()
