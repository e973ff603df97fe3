"""Training as users start it: the command, and the bundle's configurations for one and for several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

from klip_monai.phantom import random_scan
from klip_monai.standard import PriorGrid
from klip_monai.training import read_manifest, scan_groups, write_slice_set

CONFIGS = Path(__file__).parents[2] / "bundles" / "klip_ct_abdomen" / "configs"
TINY = {
    "image_shape": [32, 32],
    "grid#pixel_mm": 12.0,
    "batch_size": 2,
    "val_interval": 2,
    "network_def#channels": [8, 16],
    "network_def#attention_levels": [False, True],
    "network_def#num_head_channels": 8,
    "train#trainer#max_epochs": 1,
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom scans as NIfTI; by its name the last one is held out at a share of 0.4."""
    folder = tmp_path_factory.mktemp("archive")
    for seed in range(4):
        scan = random_scan(seed, slices=3).image
        nib.save(nib.Nifti1Image(scan[0].numpy(), np.asarray(scan.affine)), folder / f"{seed}.nii.gz")
    return folder


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    return done


def test_two_commands_train_a_bundle_on_an_archive_and_go_on_with_it(archive, tmp_path):
    prepared = run("klip_monai.cli", "prepare", archive, "-o", tmp_path / "set", "--held-out", 0.4)  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    assert {line.split for line in read_manifest(tmp_path / "set")} == {"train", "val"}
    train = ("klip_monai.cli", "train", tmp_path / "set", "-o", tmp_path / "mine", "--batch-size", 1, "--from-scratch")
    first = run(*train, "--minutes", 0.01)
    assert first.returncode == 0, first.stderr
    assert "klip-monai calibrate --bundle" in " ".join(first.stdout.split())
    weights = load_file(tmp_path / "mine" / "models" / "model.safetensors")
    again = run(*train, "--minutes", 0.05)
    assert again.returncode == 0, again.stderr
    later = load_file(tmp_path / "mine" / "models" / "model.safetensors")
    assert weights.keys() == later.keys()
    assert any(not weights[name].equal(later[name]) for name in weights)
    records = [json.loads(line) for line in (tmp_path / "mine/training/validation.jsonl").read_text().splitlines()]
    assert records[-1]["iteration"] > records[0]["iteration"]
    assert not (tmp_path / "mine" / "docs" / "README.md").exists(), "the card of other weights"


def test_a_folder_that_holds_something_else_is_not_trained_into(archive, tmp_path):
    write_slice_set(scan_groups(archive, held_out=0.4), tmp_path / "set", grid=PriorGrid((256, 256), 1.5))
    (tmp_path / "mine").mkdir()
    refused = run("klip_monai.cli", "train", tmp_path / "set", "-o", tmp_path / "mine")
    assert refused.returncode == 2
    assert "holds something else" in refused.stderr
    refused = run("klip_monai.cli", "train", tmp_path / "set", "-o", tmp_path / "new", "--bundle", "klip_ct_phantom")
    assert refused.returncode == 2
    assert "expected one that trains on a slice set" in refused.stderr


def test_two_processes_train_one_prior(archive, tmp_path):
    grid = PriorGrid((32, 32), 12.0, body_hu=-140.0)
    write_slice_set(scan_groups(archive, held_out=0.4), tmp_path / "set", grid=grid)
    settings = TINY | {
        "bundle_root": str(tmp_path),
        "dataset_dir": str(tmp_path / "set"),
        "minutes": 5,
        "resident": True,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    configs = [str(CONFIGS / name) for name in ("train.json", "multi_gpu_train.json")]
    done = run(
        "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run",
        "--config_file", json.dumps([*configs, str(tmp_path / "settings.json")]),
        "--meta_file", CONFIGS / "metadata.json",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "models" / "model.safetensors").is_file()
    checkpoints = sorted(path.name for path in (tmp_path / "training").glob("checkpoint_*.pt"))
    assert checkpoints == ["checkpoint_0.pt", "checkpoint_1.pt"]
