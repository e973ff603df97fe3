"""What every baseline keeps to."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor
from white_noise import NETWORK, made, ready, slices, square, whole

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines import BASELINES
from klip_monai.evaluation.method import Fitted, Method
from klip_monai.prior import Denoiser

FITTED = ("msma", "diffpath_1d", "diffpath_6d", "ddpm_ood", "position_z_score")
SCORES = ("pf_ode_nll", "msma", "diffpath_1d", "diffpath_6d")
BY_LEVEL = ("negative_elbo", "ddpm_ood")
WITHOUT_NOISE = ("msma", "diffpath_1d", "diffpath_6d", "position_z_score")

every = pytest.mark.parametrize("name", BASELINES)


class Counting:
    """A denoiser that counts the slices it sees."""

    def __init__(self, network: Denoiser) -> None:
        self.network, self.slices = network, 0

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        self.slices += len(x)
        return self.network(x, sigma)


@every
def test_is_a_method_and_says_whether_it_is_fitted(name):
    method = made(name)
    assert isinstance(method, Method)
    assert isinstance(method, Fitted) == (name in FITTED)


@every
def test_gives_a_float32_map_or_one_score_a_slice(name):
    images = slices(3)
    found = ready(name)(images, NETWORK)
    assert found.dtype == torch.float32
    assert found.shape == ((3,) if name in SCORES else images.shape)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", BY_LEVEL)
def test_gives_slice_scores_where_asked_and_refuses_other_levels(name):
    assert ready(name, level="slice")(slices(3), NETWORK).shape == (3,)
    with pytest.raises(InputError, match="level: got 'voxel', expected 'pixel' or 'slice'"):
        made(name, level="voxel")


@every
def test_a_planted_square_scores_higher(name):
    healthy = slices(8, seed=2)
    ill = healthy + 3 * square() * healthy.std()
    method = ready(name)
    scores, scores_ill = method(healthy, NETWORK), method(ill, NETWORK)
    if name in SCORES:
        assert float((scores_ill > scores).float().mean()) > 0.8
    else:
        inside = square().expand_as(ill)
        assert float(scores_ill[inside].mean()) > 1.5 * float(scores_ill[~inside].abs().mean())


@pytest.mark.parametrize("name", BY_LEVEL)
def test_slices_with_a_planted_square_score_higher(name):
    healthy = slices(8, seed=2)
    method = ready(name, level="slice")
    assert bool((method(healthy + 0.6 * square(), NETWORK) > method(healthy, NETWORK)).all())


@every
def test_repeats_with_its_seed_whatever_the_global_one(name):
    images, found = slices(2), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(ready(name)(images, NETWORK))
    assert torch.equal(*found)
    other = ready(name, seed=7)(images, NETWORK)
    # The trace is exact for a Gaussian prior, whatever the probes.
    assert torch.equal(found[0], other) == (name in WITHOUT_NOISE or name == "pf_ode_nll")


@every
def test_a_slice_scores_the_same_in_any_batch_and_beside_any_others(name):
    images = slices(5)
    whole_batch, one_by_one = (ready(name, batch_size=size)(images, NETWORK) for size in (16, 1))
    torch.testing.assert_close(whole_batch, one_by_one, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ready(name)(images[:2], NETWORK), whole_batch[:2], rtol=1e-4, atol=1e-4)


@every
def test_settings_are_json_able_and_hold_neither_seed_nor_batch_size_nor_slices(name):
    settings = json.loads(json.dumps(ready(name).describe()))
    assert settings["method"] == type(made(name)).__name__
    assert not {"seed", "batch_size", "healthy"} & set(settings)
    assert settings == json.loads(json.dumps(ready(name, seed=3, batch_size=2).describe()))


@every
def test_counts_the_passes_that_it_makes(name):
    method, network = ready(name), Counting(NETWORK)
    method(slices(2), network)
    # Each pass through the network of the likelihood is followed by a backward pass.
    assert method.passes == network.slices / 2 * (3 if name == "pf_ode_nll" else 1)


@every
def test_a_meta_tensor_and_inference_mode_change_nothing(name):
    images = slices(2)
    with torch.inference_mode():
        found = ready(name)(MetaTensor(images), NETWORK)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, ready(name)(images, NETWORK))


@pytest.mark.parametrize("name", FITTED)
def test_scoring_before_fitting_is_refused_and_fitting_leaves_the_method_as_it_was(name):
    method, healthy = made(name), slices(12)
    method.fit(healthy, whole(healthy), NETWORK)
    with pytest.raises(InputError, match=r"before any healthy ones, expected the method that fit\("):
        method(slices(1), NETWORK)


@pytest.mark.parametrize("name", FITTED)
def test_one_healthy_slice_is_too_few(name):
    healthy = slices(1)
    with pytest.raises(InputError, match="got 1 healthy slices to fit, expected at least"):
        made(name).fit(healthy, whole(healthy), NETWORK)


@every
def test_an_empty_batch_is_refused(name):
    with pytest.raises(InputError, match="batch_size: got 0"):
        made(name, batch_size=0)
