from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from known_slices import KnownSlices
from monai.data import MetaTensor

from klip_monai.errors import InputError
from klip_monai.evaluation import run_picture_study, save_picture_study
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity
from klip_monai.scan import Scorer
from klip_monai.standard import PriorGrid
from klip_monai.training import Group, SliceSet, write_slice_set

GRID = PriorGrid((128, 128), 3.0, body_hu=-140.0)
SEEDS = (1, 2)


def group(seed: int, split: str, *, brighter_by: float = 0.0) -> Group:
    def volumes() -> Iterator[MetaTensor]:
        image = random_scan(seed, slices=2).image
        middle = [size // 2 for size in image.shape[1:3]]
        image[:, middle[0] : middle[0] + 12, middle[1] : middle[1] + 12] += brighter_by
        yield image

    return Group(f"{split} {seed}", "phantoms", split, None, volumes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    groups = [group(seed, "normal") for seed in SEEDS] + [group(seed, "mass", brighter_by=80.0) for seed in SEEDS]
    groups += [group(seed, "same") for seed in SEEDS]
    write_slice_set(groups, path := tmp_path_factory.mktemp("set"), grid=GRID)
    return path


def score(folder: Path) -> Scorer:
    normal = SliceSet(folder, split="normal")
    prior = KnownSlices(torch.stack([normal[i]["image"] for i in range(4)]), std=0.05)
    inferer = KLIPInferer.of(Identity((128, 128)), window=(1.0, 0.1), window_levels=2, sampler_levels=3)
    return Scorer(prior, inferer, grid=GRID)


def test_a_class_with_masses_stands_out_and_one_without_does_not(folder, tmp_path):
    study = run_picture_study(score(folder), folder, healthy="normal", classes=("mass", "same"))
    mass, same = study.classes
    assert (study.healthy, study.healthy_groups, mass.slices, mass.groups) == (4, 2, 4, 2)
    assert mass.slice_level.value == mass.sensitivity.value == 1
    assert same.slice_level.value == 0.5
    save_picture_study(study, tmp_path, provenance={"bundle": "toy"})
    assert "| mass | 4 | 2 | 1.000" in (tmp_path / "picture_study.md").read_text()
    assert json.loads((tmp_path / "picture_study.json").read_text())["provenance"] == {"bundle": "toy"}


def test_a_class_that_is_not_there_and_no_class_at_all_are_refused(folder):
    with pytest.raises(InputError, match="no group with split 'cyst'"):
        run_picture_study(score(folder), folder, healthy="normal", classes=("cyst",))
    with pytest.raises(InputError, match="classes: got none"):
        run_picture_study(score(folder), folder, healthy="normal", classes=())
