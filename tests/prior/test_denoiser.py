from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from klip_monai.errors import BundleError, InputError
from klip_monai.prior import GaussianDenoiser, UNetDenoiser


class Recorder(nn.Module):
    """Stands where the U-Net stands and keeps what it was given; answers with a constant."""

    def __init__(self, answer: float = 1.0) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self.x, self.timesteps = x, timesteps
        return torch.full((x.shape[0], x.shape[1] - 2, *x.shape[2:]), self.answer)


def randomised(denoiser: UNetDenoiser) -> UNetDenoiser:
    """Weights in the last layer too, which MONAI starts at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval()


def test_gaussian_denoiser_is_the_posterior_mean_by_monte_carlo():
    generator = torch.Generator().manual_seed(0)
    mean, std, sigma, x = 0.3, 0.7, 0.5, 1.1
    clean = mean + std * torch.randn(2_000_000, generator=generator)
    weight = torch.exp(-0.5 * ((x - clean) / sigma) ** 2)
    expected = float((weight * clean).sum() / weight.sum())
    denoised = GaussianDenoiser(mean=mean, std=std)(torch.full((1, 1, 2, 2), x), sigma)
    assert denoised.shape == (1, 1, 2, 2)
    assert float(denoised[0, 0, 0, 0]) == pytest.approx(expected, abs=2e-3)


def test_gaussian_denoiser_takes_a_level_per_slice_and_a_mean_image():
    mean, x = torch.randn(1, 1, 3, 4), torch.randn(2, 1, 3, 4)
    denoised = GaussianDenoiser(mean=mean, std=1.0)(x, torch.tensor([1e-6, 1e6]))
    torch.testing.assert_close(denoised[0], x[0])
    torch.testing.assert_close(denoised[1], mean[0], rtol=0, atol=1e-4)


def test_unet_returns_its_input_as_the_noise_vanishes(tiny_denoiser):
    x = torch.randn(2, 1, 16, 16)
    denoised = randomised(tiny_denoiser())(x, 1e-5)
    torch.testing.assert_close(denoised, x, rtol=0, atol=1e-3)


def test_unet_forgets_its_input_under_huge_noise(tiny_denoiser):
    denoiser = tiny_denoiser()
    denoiser.network = Recorder(answer=0.8)
    denoised = denoiser(1e4 * torch.randn(2, 1, 16, 16), 1e4)
    # c_skip vanishes and c_out tends to sigma_data, so only the network's answer is left.
    torch.testing.assert_close(denoised, torch.full_like(denoised, 0.5 * 0.8), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_network_input_has_unit_variance_and_its_target_too(sigma, tiny_denoiser):
    denoiser = tiny_denoiser()
    denoiser.network = Recorder(answer=0.0)
    generator = torch.Generator().manual_seed(2)
    clean = 0.5 * torch.randn(64, 1, 16, 16, generator=generator)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    skip = denoiser(noisy, sigma)
    assert float(denoiser.network.x[:, :4].std()) == pytest.approx(1.0, rel=0.02)
    denoiser.network.answer = 1.0
    c_out = denoiser(noisy, sigma) - skip
    assert float(((clean - skip) / c_out).std()) == pytest.approx(1.0, rel=0.02)


def test_sigma_reaches_the_network_as_a_quarter_of_its_logarithm(tiny_denoiser):
    denoiser = tiny_denoiser()
    denoiser.network = Recorder()
    sigma = torch.tensor([0.1, 3.0])
    denoiser(torch.zeros(2, 1, 16, 16), sigma)
    timesteps = denoiser.network.timesteps
    torch.testing.assert_close(timesteps / timesteps[0], sigma.log() / sigma[0].log())


def test_space_to_depth_is_undone_and_positions_are_normalised(tiny_denoiser):
    denoiser = tiny_denoiser(space_to_depth=4)
    denoiser.network = nn.Module()
    seen = []
    denoiser.network.forward = lambda x, timesteps: seen.append(x) or x[:, :-2]  # type: ignore[method-assign]
    x = torch.randn(2, 1, 16, 16)
    sigma = 0.5
    # With F the identity, D = (c_skip + c_out c_in) x pixel by pixel.
    torch.testing.assert_close(denoiser(x, sigma), (0.5 + 0.5) * x)
    rows, columns = seen[0][0, -2], seen[0][0, -1]
    torch.testing.assert_close(rows[:, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(rows[:, 0], columns[0])


def test_a_level_per_slice_equals_slice_by_slice(tiny_denoiser):
    denoiser, x = randomised(tiny_denoiser()), torch.randn(3, 1, 16, 16)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    with torch.inference_mode():
        together = denoiser(x, sigma)
        apart = torch.cat([denoiser(x[i : i + 1], float(sigma[i])) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_and_speaks_float32(tiny_denoiser):
    denoiser, x = randomised(tiny_denoiser()), torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        full = denoiser(x, 0.4)
        denoiser.precision = "bfloat16"
        half = denoiser(x, 0.4)
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < 0.1 * float(full.abs().max())


def test_dropout_acts_in_training_only_and_names_no_weight(tiny_denoiser):
    plain, x = randomised(tiny_denoiser()), torch.randn(2, 1, 16, 16)
    dropping = tiny_denoiser(dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        expected = plain.eval()(x, 0.4)
        torch.testing.assert_close(dropping.eval()(x, 0.4), expected, rtol=0, atol=0)
        first, second = dropping.train()(x, 0.4), copy.deepcopy(dropping)(x, 0.4)
    assert not torch.equal(first, expected)
    assert not torch.equal(first, second)


def test_gradient_with_respect_to_the_input_is_that_of_the_denoiser(tiny_denoiser):
    denoiser, x = randomised(tiny_denoiser()), torch.randn(1, 1, 16, 16)
    direction = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((denoiser(leaf, 0.5) * direction).sum(), leaf)
    step = 1e-2
    with torch.no_grad():
        numeric = ((denoiser(x + step * direction, 0.5) - denoiser(x - step * direction, 0.5)) * direction).sum()
    assert float((slope * direction).sum()) == pytest.approx(float(numeric) / (2 * step), rel=2e-2)


def test_positions_are_not_among_the_weights(tiny_denoiser):
    assert not any("position" in name for name in tiny_denoiser().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": [16, 18], "channels": [8, 16]}, "multiples of 4"),
        ({"image_shape": [16], "channels": [8, 16]}, r"expected \(H, W\)"),
        ({"image_shape": [16, 16], "channels": [8, 12]}, "norm_num_groups"),
        ({"image_shape": [16, 16], "channels": [8, 16], "num_head_channels": 5}, "num_head_channels"),
        ({"image_shape": [16, 16], "channels": [8, 16], "attention_levels": [True]}, "attention_levels"),
        ({"image_shape": [16, 16], "channels": [8, 16], "num_head_channels": 8, "sigma_data": 0.0}, "sigma_data"),
        ({"image_shape": [16, 16], "channels": [8, 16], "num_head_channels": 8, "precision": "int8"}, "precision"),
        ({"image_shape": [16, 16], "channels": [8, 16], "num_head_channels": 8, "dropout": 1.0}, "dropout"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(BundleError, match=message):
        UNetDenoiser(**options)


def test_slices_and_levels_that_do_not_fit_are_refused(tiny_denoiser):
    denoiser = tiny_denoiser()
    with pytest.raises(InputError, match=r"got shape \(1, 1, 8, 16\), expected \(B, 1, 16, 16\)"):
        denoiser(torch.zeros(1, 1, 8, 16), 1.0)
    with pytest.raises(InputError, match="noise level > 0"):
        denoiser(torch.zeros(1, 1, 16, 16), 0.0)
    with pytest.raises(InputError, match="one per slice"):
        denoiser(torch.zeros(3, 1, 16, 16), torch.ones(2))
