from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from klip_monai.errors import InputError
from klip_monai.evaluation import run_healthy_study, save_healthy_study
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer
from klip_monai.scan.calibration import calibrate, set_scans
from klip_monai.standard import PriorGrid
from klip_monai.training import Group, SliceSet, write_slice_set

GRID = PriorGrid((64, 64), 6.0, body_hu=-140.0)


def group(seed: int, split: str, *, brighter_by: float = 0.0) -> Group:
    def volumes() -> Iterator[MetaTensor]:
        image = random_scan(seed, slices=4).image
        middle = [size // 2 for size in image.shape[1:3]]
        image[:, middle[0] : middle[0] + 30, middle[1] : middle[1] + 30] += brighter_by
        yield image

    return Group(f"{split} {seed}", "phantoms", split, None, volumes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    groups = [group(seed, "reference") for seed in range(1, 11)] + [group(seed, "alike") for seed in range(20, 24)]
    groups += [group(seed, "brighter", brighter_by=400.0) for seed in range(20, 22)]
    write_slice_set(groups, path := tmp_path_factory.mktemp("set"), grid=GRID)
    return path


def score(folder: Path) -> Scorer:
    reference = SliceSet(folder, split="reference")
    mean = torch.stack([reference[i]["image"] for i in range(len(reference))]).mean(dim=0)
    inferer = KLIPInferer.of(Identity((64, 64)), window_levels=2, sampler_levels=0, lowpass_px=1.0, smoothing_px=1.0)
    bare = Scorer(GaussianDenoiser(mean=mean, std=0.2), inferer, grid=GRID)
    made = calibrate(bare, set_scans(reference, slices=2), settings={}, description="phantoms")
    return Scorer(bare.network, inferer, grid=GRID, reference=made)


def test_healthy_slices_keep_the_promise_and_others_do_not(folder, tmp_path):
    one = score(folder)
    alike = run_healthy_study(one, SliceSet(folder, split="alike"), slices=2)
    brighter = run_healthy_study(one, SliceSet(folder, split="brighter"), slices=2)
    assert (len(alike.runs), len(brighter.runs)) == (8, 4)
    assert alike.level == brighter.level == pytest.approx(1 / 11), "the reference has ten people"
    assert alike.called <= 0.25
    assert brighter.called == 1
    assert all(run.strong > 0.001 for run in brighter.runs)
    save_healthy_study(alike, tmp_path, provenance={"bundle": "toy"})
    assert "| phantoms | alike 20 | 2 | " in (tmp_path / "healthy_study.md").read_text()
    assert len(json.loads((tmp_path / "healthy_study.json").read_text())["runs"]) == 8


def test_no_reference_and_too_few_slices_are_refused(folder):
    data, one = SliceSet(folder, split="alike"), score(folder)
    with pytest.raises(InputError, match="slices: got 5, expected at most 4"):
        run_healthy_study(one, data, slices=5)
    one.reference = None
    with pytest.raises(InputError, match="got no ID reference"):
        run_healthy_study(one, data, slices=2)
