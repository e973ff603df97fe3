"""The predictor-corrector sampler on a white Gaussian prior."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian_case import GaussianCase

from klip_monai.physics import Identity, ParallelBeam, Tomography
from klip_monai.prior import GaussianDenoiser, log_sigmas
from klip_monai.sampling import Step, predictor_corrector
from klip_monai.scoring import KLAccumulator, Window
from klip_monai.slice_generator import SliceGenerator

STD = 0.7
LEVELS = log_sigmas(120, sigma_max=20.0, sigma_min=0.02).tolist()
OPERATORS = {
    "identity": Identity((6, 6)),
    "tomography": Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=3)),
}


@pytest.fixture(params=OPERATORS)
def case(request):
    return GaussianCase.draw(OPERATORS[request.param], std=STD, noise_std=0.01, seed=1)


def run(case: GaussianCase, *, batch: int = 300, seed: int = 0, levels=LEVELS, callback=None, **options):
    generator = SliceGenerator(seed, range(batch))
    start = case.start(batch, levels[0], generator)
    y = case.y.float().expand(batch, *case.operator.range_shape)
    return predictor_corrector(
        GaussianDenoiser(std=STD),
        case.operator,
        y,
        start,
        sigmas=levels,
        generator=generator,
        projection_iterations=20,
        callback=callback,
        **options,
    )


def test_samples_fit_the_measurement_and_keep_the_prior_where_it_says_nothing(case):
    samples = run(case)
    residual = case.operator.A(samples) - case.y.float()
    assert float(residual.square().mean().sqrt()) < 0.03
    variance, axes = torch.linalg.eigh(case.covariance)
    unseen = axes[:, variance > 0.5 * STD**2]  # directions that the measurement leaves open
    along = (samples.flatten(1).double() - case.mean) @ unseen
    if unseen.shape[1]:
        assert float(along.var(dim=0).mean()) == pytest.approx(STD**2, rel=0.15)


def test_a_corrector_brings_fewer_levels_closer_to_the_prior(case):
    few = log_sigmas(15, sigma_max=20.0, sigma_min=0.02).tolist()
    spread = [float(run(case, levels=few, corrector_steps=steps, strength=1e-9).std() - STD) for steps in (0, 4)]
    assert abs(spread[1]) < abs(spread[0])


def test_kl_sum_above_the_noise_is_the_closed_form():
    # y is all but exact, so D_y = y, and D = k x with x = y + sigma n: E (y - D)^2 = (1 - k)^2 y^2 + k^2 sigma^2.
    case = GaussianCase.draw(OPERATORS["identity"], std=STD, noise_std=0.001)
    window, total = Window(3.0, 0.1), 0.0
    fine = log_sigmas(4001, sigma_max=3.0, sigma_min=0.1).double().tolist()
    for sigma, lower in pairwise(fine):
        shrink = STD**2 / (STD**2 + sigma**2)
        error = (1 - shrink) ** 2 * case.y.square() + shrink**2 * sigma**2
        total += window.weight(sigma, lower) * float(error.sum())
    accumulator = KLAccumulator(window)
    run(case, levels=log_sigmas(400, sigma_max=20.0, sigma_min=0.05).tolist(), callback=accumulator)
    assert float(accumulator.density().sum(dim=(1, 2, 3)).mean()) == pytest.approx(total, rel=0.05)


def test_below_the_noise_of_the_measurement_the_kl_sum_exceeds_the_closed_form():
    case = GaussianCase.draw(OPERATORS["identity"], std=STD, noise_std=0.3)
    accumulator = KLAccumulator()
    run(case, callback=accumulator)
    assert float(accumulator.density().sum(dim=(1, 2, 3)).mean()) > 1.5 * case.kl


def test_intervals_join_up_and_a_callback_changes_nothing(case):
    steps: list[Step] = []
    result = run(case, batch=3, callback=steps.append)
    assert (steps[0].sigma, steps[-1].sigma_next, len(steps)) == (LEVELS[0], LEVELS[-1], len(LEVELS) - 1)
    assert all(a.sigma_next == b.sigma for a, b in pairwise(steps))
    assert torch.equal(result, run(case, batch=3))


def test_the_generator_alone_decides(case):
    torch.manual_seed(0)
    first = run(case, batch=2)
    torch.manual_seed(1)
    assert torch.equal(first, run(case, batch=2))
    assert not torch.equal(first, run(case, batch=2, seed=1))


def test_it_costs_two_passes_a_level_and_one_in_the_end(case):
    calls = []

    def count(x: torch.Tensor, sigma: float) -> torch.Tensor:
        calls.append(sigma)
        return GaussianDenoiser(std=STD)(x, sigma)

    y, x = case.y.float(), torch.zeros(1, 1, 6, 6)
    predictor_corrector(count, case.operator, y, x, sigmas=[2.0, 1.0, 0.5], generator=SliceGenerator(0, [0]))
    assert calls == [2.0, 1.0, 1.0, 0.5, 0.5]


def test_no_levels_are_refused(case):
    with pytest.raises(ValueError, match="sigmas: got none"):
        predictor_corrector(
            GaussianDenoiser(std=STD),
            case.operator,
            case.y.float(),
            torch.zeros(1, 1, 6, 6),
            sigmas=[],
            generator=SliceGenerator(0, [0]),
        )
