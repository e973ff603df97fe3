from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from klip_monai.errors import BundleError, InputError
from klip_monai.prior import GaussianDenoiser, VariancePreservingDenoiser

ALPHAS = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SIGMAS = np.sqrt((1 - ALPHAS) / ALPHAS)


class GaussianNetwork(nn.Module):
    """What a perfectly trained network of the prior N(0, std^2 I) answers, worked out in x_t and t alone."""

    def __init__(self, prediction: str, std: float = 0.6) -> None:
        super().__init__()
        self.prediction, self.std = prediction, std

    def forward(self, x_t: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        sigma = np.exp(np.interp(times.numpy().astype(np.float64), np.arange(len(SIGMAS)), np.log(SIGMAS)))
        a = torch.as_tensor(1 / (1 + sigma**2), dtype=torch.float32)[:, None, None, None]
        x0 = a.sqrt() * self.std**2 * x_t / (a * self.std**2 + 1 - a)
        noise = (x_t - a.sqrt() * x0) / (1 - a).sqrt()
        return {"epsilon": noise, "sample": x0, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x0}[self.prediction]


class Recorder(nn.Module):
    def forward(self, x_t: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        self.x_t, self.times = x_t, times
        return torch.zeros_like(x_t)


def recording(**options: object) -> VariancePreservingDenoiser:
    return VariancePreservingDenoiser(Recorder(), ALPHAS, **options)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@given(sigma=st.floats(0.011, 150), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_perfect_gaussian_network_gives_the_exact_gaussian_denoiser(prediction, sigma, seed):
    clean = 0.6 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    x = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + 1))
    denoiser = VariancePreservingDenoiser(GaussianNetwork(prediction), ALPHAS, prediction=prediction)
    torch.testing.assert_close(denoiser(x, sigma), GaussianDenoiser(std=0.6)(x, sigma), rtol=1e-3, atol=3e-4)


def test_the_level_of_a_trained_time_is_that_time_and_others_lie_between():
    denoiser = recording()
    denoiser(torch.zeros(4, 1, 2, 2), torch.tensor(SIGMAS[[0, 10, 500, 999]], dtype=torch.float32))
    torch.testing.assert_close(denoiser.network.times, torch.tensor([0.0, 10, 500, 999]), rtol=0, atol=2e-2)
    between = float(np.sqrt(SIGMAS[10] * SIGMAS[11]))
    denoiser(torch.zeros(1, 1, 2, 2), between)
    assert float(denoiser.network.times) == pytest.approx(10.5, abs=1e-2)


def test_whole_times_are_rounded_but_the_scale_stays_that_of_the_level():
    denoiser, x = recording(whole_times=True), torch.ones(1, 1, 2, 2)
    sigma = float(SIGMAS[10] ** 0.3 * SIGMAS[11] ** 0.7)
    denoiser(x, sigma)
    assert float(denoiser.network.times) == 11.0
    torch.testing.assert_close(denoiser.network.x_t, x / (1 + sigma**2) ** 0.5)


def test_the_network_sees_unit_variance_under_huge_noise():
    denoiser = recording()
    x = 100 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    denoiser(x, 100.0)
    assert float(denoiser.network.x_t.std()) == pytest.approx(1.0, rel=0.05)


def test_below_the_lowest_level_the_first_time_is_asked_and_the_slice_comes_back():
    denoiser, x = recording(), torch.randn(1, 1, 2, 2)
    torch.testing.assert_close(denoiser(x, 1e-5), x)
    assert float(denoiser.network.times) == 0.0


def test_levels_above_the_highest_are_refused():
    denoiser, x = recording(), torch.zeros(2, 1, 2, 2)
    denoiser(x, float(SIGMAS[-1]))
    with pytest.raises(InputError, match=r"expected at most 157.*sigma_max"):
        denoiser(x, torch.tensor([1.0, 170.0]))


def test_a_level_per_slice_equals_slice_by_slice():
    denoiser = VariancePreservingDenoiser(GaussianNetwork("epsilon"), ALPHAS)
    x, sigma = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 1.0, 10.0])
    apart = torch.cat([denoiser(x[i : i + 1], float(sigma[i])) for i in range(3)])
    torch.testing.assert_close(denoiser(x, sigma), apart)


def test_it_wraps_monais_network_and_scheduler_and_adds_no_weights():
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        2, 1, 1, num_res_blocks=1, channels=(8, 16), attention_levels=(False, True), norm_num_groups=4
    )
    schedule = DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    denoiser = VariancePreservingDenoiser(network, schedule.alphas_cumprod)
    assert {name.removeprefix("network.") for name in denoiser.state_dict()} == set(network.state_dict())
    with torch.no_grad():
        nn.init.normal_(network.out[2].conv.weight)
        x = torch.randn(2, 1, 16, 16)
        denoised, noise = denoiser(x, 0.5), network(x / 1.25**0.5, denoiser.times(torch.tensor([0.5, 0.5])))
    assert float(noise.abs().mean()) > 0.1
    torch.testing.assert_close(denoised, x - 0.5 * noise)


@pytest.mark.parametrize("alphas", [[0.5], [[0.9, 0.5]], [0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0]])
def test_what_is_no_schedule_is_refused(alphas):
    with pytest.raises(BundleError, match="strictly falling"):
        VariancePreservingDenoiser(Recorder(), alphas)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(BundleError, match="'noise', expected one of epsilon"):
        VariancePreservingDenoiser(Recorder(), ALPHAS, prediction="noise")
