from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from screen_runs import BUNDLES, screen, tiny_scan

from klip_monai.bundle import bundle_info, open_workflow
from klip_monai.scoring import settings_key


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """However many processes share the work, each adds up in the same order."""
    threads, before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(threads)
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(scope="session")
def quick_bundle(tmp_path_factory) -> Path:
    """The phantom bundle with the least work that still scores: two passes a slice, and a reference of that."""
    root = tmp_path_factory.mktemp("bundles") / "quick"
    shutil.copytree(BUNDLES / "klip_ct_phantom", root)
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"] |= {"sampler_levels": 0, "window_levels": 2}
    config["operator"]["name"] = "identity"
    path.write_text(json.dumps(config))
    settings = open_workflow(bundle_info(root), "inference.json", kind="inference").parser.get_parsed_content(
        "settings"
    )
    references = sorted((root / "models" / "id_reference").glob("*.json"))
    reference = json.loads(references[0].read_text()) | {"key": settings_key(settings)}
    for old in references:
        old.unlink()
    (root / "models" / "id_reference" / "quick.json").write_text(json.dumps(reference))
    return root


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """Six small scans as NIfTI, one of them not in Hounsfield units."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(5):
        nib.save(tiny_scan(number), folder / f"Smith_{number}.nii.gz")
    image = tiny_scan(5)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).clip(0, 255), image.affine), folder / "Smith_5.nii.gz")
    return folder


@pytest.fixture(scope="session")
def screened(archive, quick_bundle, tmp_path_factory) -> Path:
    """The archive, screened in this process and undisturbed."""
    output = tmp_path_factory.mktemp("screened")
    options = ("--json-logs", output / "log.jsonl", "--key-file", output / "key.csv")
    assert screen(archive, output, quick_bundle, *options).exit_code == 3
    return output
