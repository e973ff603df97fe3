"""For a white Gaussian prior both estimators give the closed-form KL divergence in nats."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from gaussian_case import GaussianCase, relative_excess

from klip_monai.physics import Identity, ParallelBeam, Tomography
from klip_monai.prior import GaussianDenoiser, log_sigmas
from klip_monai.sampling import ConjugateGradientPosterior, posterior_sample, renoise
from klip_monai.scoring import KLAccumulator, Window
from klip_monai.slice_generator import SliceGenerator

RANGE = {"sigma_max": 80.0, "sigma_min": 0.002}
OPERATORS = {
    "identity": Identity((8, 8)),
    "tomography": Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=4)),
}


def levels(n: int) -> list[float]:
    return log_sigmas(n, **RANGE).tolist()


def renoised(case: GaussianCase, *, n: int, draws: int, crossed: bool = False) -> torch.Tensor:
    generator = SliceGenerator(1, range(draws))
    accumulator = KLAccumulator()
    x0 = case.samples(draws, generator)
    renoise(case.posterior(draws), x0, sigmas=levels(n), generator=generator, callback=accumulator, crossed=crossed)
    return accumulator.density().double()


def along_the_path(case: GaussianCase, *, n: int, draws: int) -> torch.Tensor:
    generator = SliceGenerator(2, range(draws))
    accumulator = KLAccumulator()
    start = case.start(draws, RANGE["sigma_max"], generator)
    posterior_sample(
        case.posterior(draws), start, sigmas=levels(n), generator=generator, churn=1.0, callback=accumulator
    )
    return accumulator.density().double()


ROUTES = {"renoised": renoised, "crossed": partial(renoised, crossed=True), "trajectory": along_the_path}


@pytest.fixture(params=OPERATORS)
def case(request):
    return GaussianCase.draw(OPERATORS[request.param], std=0.7, noise_std=0.1)


@pytest.mark.parametrize("route", ROUTES)
def test_full_range_sum_is_the_kl_divergence_within_three_percent(case, route):
    nats = ROUTES[route](case, n=96, draws=400).sum(dim=(1, 2, 3)).mean()
    assert float(nats) == pytest.approx(case.kl, rel=0.03)


@pytest.mark.parametrize(("route", "n"), [("renoised", 12), ("crossed", 12), ("renoised", 24), ("trajectory", 192)])
@pytest.mark.parametrize("noise_std", [0.1, 0.7])
def test_few_levels_exceed_it_by_what_their_spacing_says(route, n, noise_std):
    case = GaussianCase.draw(OPERATORS["identity"], std=0.7, noise_std=noise_std)
    nats = float(ROUTES[route](case, n=n, draws=600).sum(dim=(1, 2, 3)).mean())
    assert nats / case.kl == pytest.approx(1 + relative_excess(n, **RANGE), abs=0.02)


@pytest.mark.parametrize("route", ROUTES)
def test_density_of_each_pixel_is_its_own_divergence_for_independent_pixels(route):
    case = GaussianCase.draw(Identity((4, 4)), std=0.7, noise_std=0.1)
    ratio = case.covariance.diagonal() / case.std**2
    expected = (0.5 * (ratio + case.mean**2 / case.std**2 - 1 - ratio.log())).reshape(1, 4, 4)
    density = ROUTES[route](case, n=256, draws=2000).mean(dim=0) / (1 + relative_excess(256, **RANGE))
    torch.testing.assert_close(density, expected, rtol=0.05, atol=0.0)


def test_crossing_leaves_out_what_only_the_posterior_denoiser_believes():
    # It moves pixels that were never measured, too: a streak. Samples do not confirm that, so the mean is 0 there.
    case = GaussianCase.draw(Identity((8, 8)), std=0.7, noise_std=0.1)
    unmeasured = torch.zeros(8, 8, dtype=torch.bool)
    unmeasured[:, 4:] = True
    draws, generator = 3000, SliceGenerator(6, range(3000))
    x0 = case.samples(draws, generator)
    x0[..., unmeasured] = case.std * generator.normal(x0[..., unmeasured])
    exact = case.posterior(draws)

    def streaky(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised, posterior = exact(x, sigma)
        return denoised, torch.where(unmeasured, denoised + 0.3 * sigma[:, None, None, None], posterior)

    window = Window(3.0, 0.3)
    density = {}
    for crossed in (False, True):
        accumulator = KLAccumulator(window)
        renoise(streaky, x0, sigmas=levels(96), generator=generator, callback=accumulator, crossed=crossed)
        density[crossed] = accumulator.density().mean(dim=0)[0]
    assert float(density[False][unmeasured].mean()) > 0.05
    assert abs(float(density[True][unmeasured].mean())) < 0.005
    torch.testing.assert_close(density[True][~unmeasured], density[False][~unmeasured], rtol=0.1, atol=0.05)


def test_scalar_toy_case_of_the_paper():
    # KL = sigma1^2 y^2 / (2 (sigma1^2 + sigma2^2)^2) + const, so differences between measurements are known.
    sigma1, sigma2, measured = 0.6, 0.3, torch.tensor([0.0, 0.5, -1.0, 2.0], dtype=torch.float64)
    # Every pixel is a draw of the scalar.
    shape = (40, 50)
    shrink = sigma1**2 / (sigma1**2 + sigma2**2)
    white = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(3))
    nats = []
    for y in measured:
        posterior = ConjugateGradientPosterior(
            GaussianDenoiser(std=sigma1),
            Identity(shape),
            torch.full((1, 1, *shape), float(y)),
            noise_std=sigma2,
            data_std=sigma1,
            iterations=2,
        )
        x0 = shrink * float(y) + shrink**0.5 * sigma2 * white
        accumulator = KLAccumulator()
        # The same noise for every measurement makes differences sharp.
        noise = SliceGenerator(4, [0])
        renoise(posterior, x0, sigmas=levels(512), generator=noise, callback=accumulator)
        nats.append(float(accumulator.density().mean()))
    found = torch.tensor(nats, dtype=torch.float64)
    expected = sigma1**2 * measured**2 / (2 * (sigma1**2 + sigma2**2) ** 2)
    torch.testing.assert_close(found - found[0], expected, rtol=0.03, atol=0.01)
