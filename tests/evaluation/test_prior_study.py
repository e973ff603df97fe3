from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from klip_monai.evaluation import run_prior_study, save_prior_study
from klip_monai.evaluation.prior_study import loss_per_sigma, nearest, pick, reconstructions, samples
from klip_monai.evaluation.total_variation import total_variation
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity, make_operator
from klip_monai.prior import GaussianDenoiser
from klip_monai.standard import PriorGrid
from klip_monai.training import Group, SliceSet, write_slice_set

GRID = PriorGrid((64, 64), 6.0, body_hu=-140.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    folder = tmp_path_factory.mktemp("set")
    group = Group("p", "phantoms", "train", None, lambda: iter([random_scan(1, slices=5).image]))
    write_slice_set([group], folder, grid=GRID)
    return SliceSet(folder)


def test_the_loss_of_a_prior_that_knows_the_slices_is_less_than_of_one_that_does_not(data):
    known = GaussianDenoiser(mean=torch.stack([data[i]["image"] for i in range(5)] * 2), std=0.05)
    losses = [loss_per_sigma(p, data, sigmas=[0.2, 1.0], sigma_data=0.5) for p in (known, GaussianDenoiser(std=0.5))]
    assert losses[0].keys() == {0.2, 1.0}
    assert all(losses[0][sigma] < 0.3 * losses[1][sigma] for sigma in losses[0])


def test_samples_of_a_gaussian_prior_have_its_spread():
    made = samples(GaussianDenoiser(std=0.2), (16, 16), count=8)
    assert made.shape == (8, 1, 16, 16)
    assert float(made.std()) == pytest.approx(0.2, rel=0.1)


def test_the_nearest_of_a_copy_is_the_original(data):
    images = pick(data, 5)
    distance, index = nearest(images[[3, 1]] + 0.01 * torch.randn(2, 1, 64, 64), images)
    assert index.tolist() == [3, 1]
    assert float(distance.max()) < 0.01
    others, _ = nearest(images[:1], images[1:])
    assert float(others) > 0.03


def test_total_variation_denoises_a_step_better_than_it_was():
    truth = torch.full((1, 1, 32, 32), -0.5)
    truth[..., 16:] = 0.5
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    made = total_variation(Identity((32, 32)), noisy, weight=0.2)
    assert float((made - truth).square().mean()) < 0.1 * float((noisy - truth).square().mean())
    flat = total_variation(Identity((32, 32)), noisy, weight=20.0, iterations=3000)
    assert float(flat.std()) < 0.02


def test_a_prior_that_knows_the_slice_reconstructs_it_best(data):
    images = pick(data, 2)
    operator = make_operator("sparse_view", image_shape=(64, 64), pixel_mm=6.0, views=12)
    inferer = KLIPInferer.of(operator, sampler_levels=6, window_levels=2)
    made = reconstructions(GaussianDenoiser(mean=images, std=0.02), inferer, images, tv_weights=[1e-3, 1e-2])
    assert made["posterior sample"].psnr > made["total variation"].psnr > made["filtered back-projection"].psnr
    assert all(0 < quality.ssim <= 1 for quality in made.values())


def test_the_report_of_a_prior_that_remembers_shows_it(data, tmp_path):
    operator = make_operator("sparse_view", image_shape=(64, 64), pixel_mm=6.0, views=12)
    study = run_prior_study(
        GaussianDenoiser(mean=data[0]["image"], std=0.01),
        KLIPInferer.of(operator, sampler_levels=3, window_levels=1),
        train=data,
        held_out=data,
        sigmas=[0.2, 1.0],
        sigma_data=0.5,
        tv_weights=[1e-3],
        count=2,
        stride=2,
    )
    assert study.sample_distance < 0.01
    assert study.train_loss.keys() == study.held_out_loss.keys() == {0.2, 1.0}
    save_prior_study(study, tmp_path, provenance={"bundle": "toy"})
    assert "| posterior sample |" in (tmp_path / "prior_study.md").read_text()
    assert "samples" not in json.loads((tmp_path / "prior_study.json").read_text())
    shown = np.asarray(Image.open(tmp_path / "samples.png"))
    assert shown.shape == (64, 128)
    expected = (data[0]["image"][0].clamp(-1, 1) + 1) * 127.5
    assert np.abs(shown[:, :64] - expected.numpy()).mean() < 3
