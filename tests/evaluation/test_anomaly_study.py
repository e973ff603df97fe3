from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from known_slices import KnownSlices
from monai.data import MetaTensor

from klip_monai.errors import InputError
from klip_monai.evaluation import anomalies_to_markdown, run_anomaly_study, save_anomaly_study, scored
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer
from klip_monai.standard import PriorGrid
from klip_monai.training import Group, SliceSet, write_slice_set

GRID = PriorGrid((128, 128), 3.0, body_hu=-140.0)


def group(seed: int, split: str, source: str = "phantoms") -> Group:
    def volumes() -> Iterator[MetaTensor]:
        yield random_scan(seed, slices=4).image

    return Group(f"patient {seed}", source, split, None, volumes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    groups = [group(1, "test"), group(2, "test", "others"), group(3, "reference")]
    write_slice_set(groups, path := tmp_path_factory.mktemp("set"), grid=GRID)
    return path


def test_anomalies_are_found_by_a_prior_that_knows_the_slices_without_them(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(scored, "PART", 64)
    healthy, calibration = (SliceSet(folder, split=split) for split in ("test", "reference"))
    known = [data[i]["image"] for data in (healthy, calibration) for i in range(0, len(data), 2)]
    options = {"smoothing_px": 1.0, "window": (1.0, 0.1), "window_levels": 2, "sampler_levels": 3}
    prior = KnownSlices(torch.stack(known), std=0.05)
    inferer = KLIPInferer.of(Identity((128, 128)), **options)
    study = run_anomaly_study(
        Scorer(prior, inferer, grid=healthy.grid), {"renoised": inferer},
        healthy=healthy, calibration=calibration, stride=2,
    )  # fmt: skip
    assert study.patients == 2
    assert study.healthy == {"others": 2, "phantoms": 2}
    assert study.separation["others"].value == pytest.approx(1 - study.separation["phantoms"].value)
    assert study.calibration == 2
    for kind, part in study.studies.items():
        assert part.healthy == part.anomalous == 4
        assert part.rows[0].image_level.value > (0.9 if "65-145" in kind or kind == "stars" else 0.8)
    save_anomaly_study(study, tmp_path, provenance={"bundle": "toy"})
    text = (tmp_path / "anomaly_study.md").read_text()
    assert text == anomalies_to_markdown(study)
    assert "## Stars (4 slices)" in text
    assert "data sets apart): others 0." in text or "data sets apart): others 1." in text
    assert json.loads((tmp_path / "anomaly_study.json").read_text())["provenance"] == {"bundle": "toy"}


def test_a_patient_on_both_sides_is_refused(folder):
    healthy = SliceSet(folder, split="test")
    scorer = Scorer(GaussianDenoiser(), KLIPInferer.of(Identity((128, 128))), grid=healthy.grid)
    with pytest.raises(InputError, match="calibration: got 2 groups of the study itself"):
        run_anomaly_study(scorer, {}, healthy=healthy, calibration=SliceSet(folder))
