from __future__ import annotations

import pytest
import torch
from gaussian_case import GaussianCase

from klip_monai.physics import Identity, ParallelBeam, Tomography
from klip_monai.prior import GaussianDenoiser
from klip_monai.sampling import ConjugateGradientPosterior
from klip_monai.slice_generator import SliceGenerator


@pytest.mark.parametrize("sigma", [0.01, 0.3, 5.0, 80.0])
@pytest.mark.parametrize("views", [2, 5])
def test_posterior_denoiser_is_exact_for_a_white_gaussian_prior(sigma, views):
    operator = Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=views))
    case = GaussianCase.draw(operator, std=0.7, noise_std=0.1)
    x = case.samples(3, SliceGenerator(0, range(3))) + sigma
    prior, posterior = case.posterior(3, iterations=30)(x, sigma)
    torch.testing.assert_close(prior, 0.49 / (0.49 + sigma**2) * x)
    # Bayes: the posterior's Gaussian times the likelihood N(x; x0, sigma^2 I).
    precision = torch.linalg.inv(case.covariance)
    right = precision @ case.mean + x.flatten(1).double() / sigma**2
    exact = torch.linalg.solve(precision + torch.eye(36, dtype=torch.float64) / sigma**2, right.T).T
    torch.testing.assert_close(posterior.flatten(1).double(), exact, rtol=1e-3, atol=1e-3)


def test_no_iterations_leave_the_prior_as_it_is():
    y = torch.ones(1, 1, 4, 4)
    posterior = ConjugateGradientPosterior(GaussianDenoiser(), Identity((4, 4)), y, noise_std=0.1, iterations=0)
    prior, moved = posterior(torch.zeros(1, 1, 4, 4), 1.0)
    assert torch.equal(prior, moved)


def test_a_measurement_that_agrees_with_the_prior_moves_nothing():
    operator = Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=4))
    mean = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior = ConjugateGradientPosterior(GaussianDenoiser(mean=mean), operator, operator.A(mean), noise_std=0.01)
    prior, moved = posterior(mean, 0.5)
    torch.testing.assert_close(moved, prior, rtol=0, atol=1e-5)


def test_slices_of_a_batch_do_not_mix():
    operator = Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=4))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 1, 8, 8, generator=generator), torch.randn(3, *operator.range_shape, generator=generator)

    def denoised(at: slice) -> torch.Tensor:
        return ConjugateGradientPosterior(GaussianDenoiser(), operator, y[at], noise_std=0.1)(x[at], 0.5)[1]

    torch.testing.assert_close(denoised(slice(1, 2)), denoised(slice(None))[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise_std", [0.0, -0.1])
def test_measurement_noise_must_be_positive(noise_std):
    with pytest.raises(ValueError, match=f"noise_std: got {noise_std}, expected a positive standard deviation"):
        ConjugateGradientPosterior(GaussianDenoiser(), Identity((4, 4)), torch.zeros(1, 1, 4, 4), noise_std=noise_std)


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 8), (3, 1, 4, 1)])
def test_noise_of_each_measurement_weighs_it(shape):
    operator = Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=4, detectors=8))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 1, 6, 6, generator=generator), torch.randn(3, *operator.range_shape, generator=generator)
    std, sigma, s = 0.05 + torch.rand(shape, generator=generator), 0.6, 0.5
    prior = GaussianDenoiser(std=s)
    _, moved = ConjugateGradientPosterior(prior, operator, y, noise_std=std, data_std=s, iterations=60)(x, sigma)
    matrix = operator.A(torch.eye(36, dtype=torch.float64).reshape(-1, 1, 6, 6)).flatten(1).T
    r2 = sigma**2 * s**2 / (sigma**2 + s**2)
    for i, denoised in enumerate(prior(x, sigma)):
        weights = std.expand_as(y)[i].flatten().double() ** -2
        residual = y[i].flatten().double() - matrix @ denoised.flatten().double()
        left = torch.eye(36, dtype=torch.float64) + r2 * matrix.T @ (weights[:, None] * matrix)
        exact = torch.linalg.solve(left, r2 * matrix.T @ (weights * residual))
        torch.testing.assert_close((moved[i] - denoised).flatten().double(), exact, rtol=1e-3, atol=1e-3)


def test_one_number_is_the_same_for_all_measurements():
    operator = Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=4))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 8, 8, generator=generator), torch.randn(2, *operator.range_shape, generator=generator)
    number, tensor = (
        ConjugateGradientPosterior(GaussianDenoiser(), operator, y, noise_std=std)(x, 0.5)[1]
        for std in (0.1, torch.full((1, *operator.range_shape), 0.1))
    )
    torch.testing.assert_close(number, tensor, rtol=1e-4, atol=1e-5)


def test_a_measurement_without_noise_among_others_is_refused():
    std = torch.ones(1, 1, 4, 4)
    std[..., 2, 2] = 0
    with pytest.raises(ValueError, match=r"noise_std: got 0\.0"):
        ConjugateGradientPosterior(GaussianDenoiser(), Identity((4, 4)), torch.zeros(1, 1, 4, 4), noise_std=std)
