"""Ancestral sampling with DPS on a white Gaussian prior."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian_case import GaussianCase

from klip_monai.physics import Identity, ParallelBeam, Tomography
from klip_monai.prior import GaussianDenoiser, log_sigmas
from klip_monai.sampling import Step, ddpm_dps, prior_sample
from klip_monai.sampling.guidance import misfit_gradient
from klip_monai.scoring import KLAccumulator
from klip_monai.slice_generator import SliceGenerator

STD = 0.7
LEVELS = log_sigmas(150, sigma_max=20.0, sigma_min=0.02).tolist()


@pytest.fixture(scope="module")
def case():
    operator = Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=3))
    return GaussianCase.draw(operator, std=STD, noise_std=0.05, seed=1)


def run(
    case: GaussianCase, *, batch: int = 200, seed: int = 0, sigmas=LEVELS, callback=None, **options
) -> torch.Tensor:
    generator = SliceGenerator(seed, range(batch))
    start = case.start(batch, LEVELS[0], generator)
    y = case.y.float().expand(batch, *case.operator.range_shape)
    return ddpm_dps(
        GaussianDenoiser(std=STD),
        case.operator,
        y,
        start,
        sigmas=sigmas,
        generator=generator,
        callback=callback,
        **options,
    )


def misfit(case: GaussianCase, samples: torch.Tensor) -> float:
    return float((case.operator.A(samples) - case.y.float()).square().mean().sqrt())


def test_gradient_is_that_of_each_slice_s_own_misfit(case):
    x = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = case.y.float().expand(3, *case.operator.range_shape)
    shrink = STD**2 / (STD**2 + 0.5**2)
    denoised, gradient = misfit_gradient(GaussianDenoiser(std=STD), case.operator, y, x, 0.5)
    residual = y - case.operator.A(denoised)
    norm = residual.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(gradient, -shrink * case.operator.A_adjoint(residual) / norm)


def test_an_exact_fit_has_no_gradient():
    x = torch.zeros(1, 1, 4, 4)
    _, gradient = misfit_gradient(GaussianDenoiser(), Identity((4, 4)), torch.zeros(1, 1, 4, 4), x, 1.0)
    assert not gradient.any()


def test_it_works_in_inference_mode_with_a_network_that_has_parameters(case):
    layer = torch.nn.Conv2d(1, 1, 1)
    with torch.inference_mode():
        y = case.y.float() * 1.0
        _, gradient = misfit_gradient(lambda x, sigma: layer(x), case.operator, y, torch.ones(1, 1, 6, 6) * 2, 1.0)
    assert gradient.isfinite().all()
    assert layer.weight.grad is None


def test_a_stronger_pull_fits_the_measurement_better(case):
    fits = [misfit(case, run(case, strength=strength)) for strength in (0.0, 0.1, 0.4)]
    assert fits[0] > 1.5 * fits[1] > 1.5 * fits[2]


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_without_a_pull_it_samples_the_prior(case, churn):
    generator = SliceGenerator(0, range(200))
    start = case.start(200, LEVELS[0], generator)
    plain = prior_sample(GaussianDenoiser(std=STD), start, sigmas=LEVELS, generator=generator, churn=churn)
    torch.testing.assert_close(run(case, strength=0.0, churn=churn), plain)


def test_a_variance_preserving_chain_takes_the_same_steps(case):
    """The textbook form: x_t at cumulative alpha a, ancestral mean and variance from betas, DPS step on x_{t-1}."""
    sigmas, strength = [2.0, 1.4], 0.3
    y, x = case.y.float(), torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(3)) * 2
    a, a_next = (1 / (1 + s**2) for s in sigmas)
    alpha = a / a_next
    x_t = (a**0.5 * x).requires_grad_()
    x0 = GaussianDenoiser(std=STD)(x_t / a**0.5, sigmas[0])
    mean = (alpha**0.5 * (1 - a_next) * x_t + a_next**0.5 * (1 - alpha) * x0) / (1 - a)
    norm = (y - case.operator.A(x0)).norm()
    (gradient,) = torch.autograd.grad(norm, x_t)
    noise = SliceGenerator(4, [0]).normal(x)
    std = ((1 - a_next) / (1 - a) * (1 - alpha)) ** 0.5
    x_next = (mean + std * noise - strength * gradient).detach() / a_next**0.5
    expected = GaussianDenoiser(std=STD)(x_next, sigmas[1])
    got = ddpm_dps(
        GaussianDenoiser(std=STD),
        case.operator,
        y,
        x,
        sigmas=sigmas,
        generator=SliceGenerator(4, [0]),
        strength=strength,
    )
    torch.testing.assert_close(got, expected)


def test_the_reported_move_is_what_the_step_s_mean_moved_by(case):
    steps: list[Step] = []
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(3)) * 2
    y, options = case.y.float(), {"sigmas": [2.0, 1.4], "strength": 0.3}
    ends = []
    for strength, callback in ((0.3, steps.append), (0.0, None)):
        seen = {}

        def spy(x: torch.Tensor, sigma: float, seen: dict = seen) -> torch.Tensor:
            seen[sigma] = x.detach()
            return GaussianDenoiser(std=STD)(x, sigma)

        ddpm_dps(
            spy,
            case.operator,
            y,
            x,
            generator=SliceGenerator(4, [0]),
            callback=callback,
            **(options | {"strength": strength}),
        )
        ends.append(seen[1.4])
    move = (steps[0].denoised_posterior - steps[0].denoised_prior) * (1 - (1.4 / 2.0) ** 2)
    torch.testing.assert_close(move, ends[0] - ends[1])


def test_its_kl_sum_exceeds_the_closed_form_and_grows_with_the_strength(case):
    nats = []
    for strength in (0.1, 0.4):  # steps of a fixed length, however well the measurement is met
        accumulator = KLAccumulator()
        run(case, strength=strength, callback=accumulator)
        nats.append(float(accumulator.density().sum(dim=(1, 2, 3)).mean()))
    assert 2 * case.kl < nats[0] < nats[1]


def test_intervals_join_up(case):
    steps: list[Step] = []
    run(case, batch=2, callback=steps.append)
    assert (steps[0].sigma, steps[-1].sigma_next, len(steps)) == (LEVELS[0], LEVELS[-1], len(LEVELS) - 1)
    assert all(a.sigma_next == b.sigma for a, b in pairwise(steps))


def test_no_levels_are_refused(case):
    with pytest.raises(ValueError, match="sigmas: got none"):
        run(case, sigmas=[])
