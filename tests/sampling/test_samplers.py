from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian_case import GaussianCase

from klip_monai.physics import Identity, ParallelBeam, Tomography
from klip_monai.prior import log_sigmas
from klip_monai.sampling import Step, posterior_sample, renoise
from klip_monai.slice_generator import SliceGenerator

LEVELS = log_sigmas(40, sigma_max=20.0, sigma_min=0.01).tolist()


@pytest.fixture(scope="module")
def case():
    operator = Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=3))
    return GaussianCase.draw(operator, std=0.7, noise_std=0.1, seed=1)


def run(case, *, batch: int = 4, seed: int = 0, churn: float = 1.0, noise_seed: int = 5, callback=None):
    start = case.start(batch, LEVELS[0], SliceGenerator(seed, range(batch)))
    generator = SliceGenerator(noise_seed, range(batch))
    return posterior_sample(
        case.posterior(batch), start, sigmas=LEVELS, generator=generator, churn=churn, callback=callback
    )


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_samples_have_the_mean_and_covariance_of_the_posterior(case, churn):
    batch, generator = 1500, SliceGenerator(2, range(1500))
    sigmas = log_sigmas(160, sigma_max=20.0, sigma_min=0.005).tolist()
    start = case.start(batch, sigmas[0], generator)
    samples = posterior_sample(case.posterior(batch), start, sigmas=sigmas, generator=generator, churn=churn)
    flat = samples.flatten(1).double()
    spread = (case.covariance.diagonal() / batch).sqrt()
    assert float(((flat.mean(dim=0) - case.mean) / spread).abs().max()) < 5
    variance, axes = torch.linalg.eigh(case.covariance)
    ratio = ((flat - flat.mean(dim=0)) @ axes).var(dim=0) / variance
    # Finite steps shrink the variance, by about their spacing in ln sigma (0.05 here).
    assert 0.92 < float(ratio.mean()) < 1.02
    assert 0.8 < float(ratio.min()) < float(ratio.max()) < 1.2


def test_ddim_uses_no_randomness_and_ancestral_sampling_does(case):
    assert torch.equal(run(case, churn=0.0, noise_seed=5), run(case, churn=0.0, noise_seed=6))
    assert not torch.equal(run(case, churn=1.0, noise_seed=5), run(case, churn=1.0, noise_seed=6))


def test_same_seed_gives_the_same_bits(case):
    assert torch.equal(run(case, noise_seed=7), run(case, noise_seed=7))


def test_the_given_generator_is_the_only_source_of_randomness(case):
    torch.manual_seed(0)
    first = run(case)
    torch.manual_seed(1)
    assert torch.equal(first, run(case))


def test_every_level_is_reported_within_an_interval_and_the_intervals_join_up(case):
    steps: list[Step] = []
    result = run(case, callback=steps.append)
    assert len(steps) == len(LEVELS)
    assert (steps[0].sigma, steps[-1].sigma_next) == (LEVELS[0], LEVELS[-1])
    assert all(a.sigma_next == b.sigma for a, b in pairwise(steps))
    assert all(step.sigma >= level >= step.sigma_next for step, level in zip(steps, LEVELS, strict=True))
    for step in steps:
        assert step.denoised_prior.shape == step.denoised_posterior.shape == result.shape == (4, 1, 6, 6)
    assert torch.equal(result, run(case)), "a callback must not change the sample"


def test_a_single_level_returns_the_denoised_posterior(case):
    steps: list[Step] = []
    x = case.start(2, 3.0, SliceGenerator(0, range(2)))
    posterior = case.posterior(2)
    result = posterior_sample(posterior, x, sigmas=[3.0], generator=SliceGenerator(0, range(2)), callback=steps.append)
    assert torch.equal(result, posterior(x, 3.0)[1])
    assert steps == []


def test_no_levels_are_refused(case):
    with pytest.raises(ValueError, match="sigmas: got none, expected at least one noise level"):
        posterior_sample(case.posterior(1), torch.zeros(1, 1, 6, 6), sigmas=[], generator=SliceGenerator(0, [0]))


def test_renoise_reports_each_interval_at_fresh_noise_around_the_sample():
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def posterior(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((x, sigma))
        return x, x

    x0, steps = torch.full((200, 1, 8, 8), 0.3), []
    sigmas = [0.4, 0.2, 0.1]
    renoise(posterior, x0, sigmas=sigmas, generator=SliceGenerator(0, range(200)), callback=steps.append)
    assert [(step.sigma, step.sigma_next) for step in steps] == [(0.4, 0.2), (0.2, 0.1)]
    ((x, sigma),) = seen
    middles = [0.08**0.5, 0.02**0.5]
    assert sigma.tolist() == pytest.approx(middles * 200), "not at the geometric middle, slice by slice"
    for step, middle, states in zip(steps, middles, x.unflatten(0, (200, 2)).unbind(1), strict=True):
        torch.testing.assert_close((states - x0) / middle, step.noise, rtol=0, atol=1e-5)
        assert float(step.noise.mean()) == pytest.approx(0, abs=0.05)
        assert float(step.noise.std()) == pytest.approx(1, abs=0.05)
        torch.testing.assert_close(step.denoised_prior, states)
    assert float((steps[0].noise * steps[1].noise).mean()) == pytest.approx(0, abs=0.05), "levels share noise"


def test_many_levels_are_evaluated_some_at_a_time_and_each_once():
    calls, steps = [], []

    def posterior(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(sigma)
        return x, x

    sigmas = [2.0**-k for k in range(21)]
    x0 = torch.zeros(3, 1, 4, 4)
    renoise(posterior, x0, sigmas=sigmas, generator=SliceGenerator(0, range(3)), callback=steps.append)
    assert [step.sigma for step in steps] == sigmas[:-1]
    assert max(map(len, calls)) < 3 * 20
    assert sorted({float(sigma) for call in calls for sigma in call}, reverse=True) == pytest.approx(
        [2.0 ** -(k + 0.5) for k in range(20)]
    )
    assert len({float(step.noise[0, 0, 0, 0]) for step in steps}) == 20


def test_identity_operator_with_little_noise_returns_the_measurement():
    case = GaussianCase.draw(Identity((6, 6)), std=0.7, noise_std=0.01)
    assert float((run(case) - case.y.float()).abs().max()) < 0.06
