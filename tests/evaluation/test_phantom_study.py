"""The phantom study compares like with like, finds what is there to be found, and is written by the bundle."""

from __future__ import annotations

import json

import pytest
import torch
from known_slices import KnownSlices

from klip_monai.bundle import find_bundle, open_workflow
from klip_monai.errors import InputError
from klip_monai.evaluation import phantom_study, run_phantom_study, save_study, slice_study, study_slices, to_markdown
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser, UNetDenoiser, save_weights
from klip_monai.standard import PriorGrid

GRID = PriorGrid((32, 32), 12.0)


@pytest.fixture(scope="module")
def slices():
    return [study_slices(2, PriorGrid(), seed=seed, lesion=seed >= 300_000) for seed in (200_000, 300_000)]


def test_lesion_slices_show_their_lesion_in_the_body_and_healthy_ones_have_none(slices):
    healthy, lesion = slices
    assert lesion.masks.flatten(1).any(dim=1).all()
    assert not (lesion.masks & ~lesion.body).any()
    assert not healthy.masks.any()
    assert healthy.images.shape == lesion.images.shape == (2, 1, 128, 128)
    assert not set(healthy.patients) & set(lesion.patients)


def test_a_healthy_slice_is_the_slice_where_the_same_patient_would_have_a_lesion(slices):
    ill = study_slices(2, PriorGrid(), seed=200_000, lesion=True)
    assert ill.patients == slices[0].patients
    far = ~(torch.nn.functional.max_pool2d(ill.masks.float(), 9, stride=1, padding=4) > 0)
    difference = (ill.images - slices[0].images).abs()
    assert float(difference[far].max()) < 0.05
    assert (difference * ill.masks).flatten(1).amax(dim=1).min() > 0.05


@pytest.fixture(scope="module")
def study():
    """Nine slices under a Gaussian prior around those same slices without the lesions."""
    grid = PriorGrid()
    seeds = (phantom_study.HEALTHY_SEED, phantom_study.LESION_SEED, phantom_study.CALIBRATION_SEED)
    healthy = [study_slices(3, grid, seed=seed, lesion=False).images for seed in seeds]
    prior = KnownSlices(torch.cat(healthy), std=0.05)
    operator = Identity(grid.image_shape)
    rows = {
        "renoised": KLIPInferer.of(operator, window_levels=2, sampler_levels=2),
        "trajectory_unrestricted": KLIPInferer.of(
            operator, estimator="trajectory", window=None, lowpass_px=0.0, sampler_levels=3
        ),
    }
    return run_phantom_study(prior, rows, grid=grid, healthy=3, lesions=3, calibration=3)


def test_a_prior_that_only_lacks_the_lesion_finds_it(study):
    for row in study.study.rows:
        assert row.image_level.value > 0.97
        assert row.slice_level.value == row.average_precision.value == row.sensitivity.value == 1
        assert row.fpr95.value == 0
        assert row.best_dice.value >= row.dice.value - 0.1
    assert study.study.rows[0].blocks_legacy.value >= study.study.rows[0].blocks_in_body.value


def test_rows_say_what_they_cost_and_how_they_were_made(study):
    assert [(row.calibrated, row.passes) for row in study.study.rows] == [(True, 4), (False, 4), (True, 3), (False, 3)]
    assert study.study.rows[2].settings["estimator"] == "trajectory"
    assert all(row.seconds > 0 for row in study.study.rows)


def test_strata_share_out_the_lesion_slices(study):
    assert sum(stratum.slices for stratum in study.study.strata) == len(study.lesion_seeds)
    for stratum in study.study.strata:
        assert (stratum.image_level is None) == (stratum.slices == 0)


def test_radius_of_a_disc_is_recovered():
    axis = torch.arange(64) - 32.0
    disc = (axis[:, None] ** 2 + axis**2 <= 10**2)[None, None]
    assert slice_study.equivalent_radii(disc, pixel_mm=3.0)[0] == pytest.approx(30, rel=0.02)


def test_report_is_written_as_tables_and_as_strict_json(study, tmp_path):
    save_study(study, tmp_path / "new", provenance={"bundle": "toy"})
    text = (tmp_path / "new" / "phantom_study.md").read_text()
    assert text == to_markdown(study)
    assert f"| trajectory unrestricted | {study.study.rows[3].image_level} |" in text
    content = json.loads((tmp_path / "new" / "phantom_study.json").read_text())
    assert content["study"]["rows"][0]["image_level"]["value"] == study.study.rows[0].image_level.value
    assert content["provenance"] == {"bundle": "toy"}
    assert content["scans"] is None


def test_a_study_without_rows_or_slices_is_refused():
    with pytest.raises(InputError, match="got 0 rows, 100 healthy, 100 lesion and 100 calib"):
        run_phantom_study(GaussianDenoiser(), {}, grid=GRID)
    with pytest.raises(InputError, match="two slices of each kind"):
        run_phantom_study(GaussianDenoiser(), {"a": KLIPInferer.of(Identity((32, 32)))}, grid=GRID, lesions=1)


def test_the_bundle_runs_the_study_with_all_rows(tmp_path):
    tiny = {"image_shape": [64, 64], "channels": [8, 8], "norm_num_groups": 4, "num_head_channels": 8}
    torch.manual_seed(0)
    save_weights(tmp_path / "tiny.safetensors", UNetDenoiser(**tiny, attention_levels=[False, False]))
    overrides = {f"network_def#{name}": value for name, value in tiny.items() if name != "image_shape"}
    overrides |= {"image_shape": [64, 64], "grid#pixel_mm": 6.0, "network_def#attention_levels": [False, False]}
    overrides |= {"weights": str(tmp_path / "tiny.safetensors"), "output_dir": str(tmp_path / "out")}
    overrides |= {
        "healthy": 2,
        "lesions": 2,
        "calibration": 2,
        "scans": 0,
        "reference": None,
        "operator#views": 6,
        "device": "$torch.device('cpu')",
    }
    workflow = open_workflow(
        find_bundle("klip_ct_phantom"), ["inference.json", "evaluate.json"], kind="inference", **overrides
    )
    workflow.initialize()
    workflow.run()
    content = json.loads((tmp_path / "out" / "phantom_study.json").read_text())
    rows = {row["name"]: row for row in content["study"]["rows"] if row["calibrated"]}
    restricted = [
        rows[name] for name in ("renoised", "renoised_crossed", "trajectory", "renoised_window_only", "denoising_only")
    ]
    unrestricted = [rows[name] for name in ("renoised_unrestricted", "trajectory_unrestricted")]
    assert len(rows) == len(restricted) + len(unrestricted)
    windows = [row["settings"]["window"] for row in restricted]
    assert all(window == windows[0] for window in windows)
    for row in unrestricted:
        assert row["settings"]["window"] == {"high": 3.0, "low": 0.02}
        assert row["settings"]["lowpass_px"] == 0
    assert rows["renoised_window_only"]["settings"]["lowpass_px"] == 0 < rows["renoised"]["settings"]["lowpass_px"]
    assert len({row["passes"] for row in rows.values()}) == 1, "unequal cost"
    assert rows["denoising_only"]["settings"]["operator"]["type"] == "Identity"
    assert content["provenance"]["bundle"] == "klip_ct_phantom"
    assert (tmp_path / "out" / "phantom_study.md").is_file()
