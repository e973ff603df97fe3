from __future__ import annotations

import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.evaluation import run_density_study, save_density_study
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.slice_generator import SliceGenerator
from klip_monai.standard import PriorGrid
from klip_monai.training import Group, SliceSet, write_slice_set

GRID = PriorGrid((64, 64), 6.0, body_hu=-140.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    groups = [
        Group(str(seed), "phantoms", "reference", None, lambda seed=seed: iter([random_scan(seed, slices=4).image]))
        for seed in (1, 2)
    ]
    write_slice_set(groups, folder := tmp_path_factory.mktemp("set"), grid=GRID)
    return SliceSet(folder)


def inferer(**options) -> KLIPInferer:
    return KLIPInferer.of(Identity((64, 64)), **{"sampler_levels": 0, "window_levels": 8, "batch_size": 3, **options})


def test_regions_sum_to_the_body_and_its_bands_to_the_density(data, tmp_path):
    one, prior = inferer(draws=2), GaussianDenoiser(std=0.5)
    study = run_density_study(prior, one, data)
    (body,) = study.regions["all"]
    assert (study.slices, body.share) == (8, 1)
    for regions in study.regions.values():
        assert sum(region.share for region in regions) == pytest.approx(1)
        for band in range(len(study.bands)):
            assert sum(r.share * r.density[band] for r in regions) == pytest.approx(body.density[band])
    images = torch.stack([data[index]["image"] for index in range(8)])
    inside = images > -1
    density, _ = one.density(images, prior, generator=SliceGenerator(one.seed, range(8)))
    assert sum(body.density) == pytest.approx(float(density[inside].mean()), rel=0.05)
    save_density_study(study, tmp_path, provenance={"bundle": "toy"})
    assert "| tissue: soft tissue | " in (tmp_path / "density_study.md").read_text()


def test_tissue_far_off_the_prior_mean_scores_most(data):
    study = run_density_study(GaussianDenoiser(mean=-0.4, std=0.1), inferer(), data)
    by_name = {region.name: sum(region.density) for region in study.regions["tissue"]}
    assert by_name["fat"] < by_name["soft tissue"] < by_name["bone and contrast medium"]


def test_twins_are_refused(data):
    with pytest.raises(InputError, match="got 1 twins"):
        run_density_study(GaussianDenoiser(), inferer(sampler_levels=4, twins=1), data)
