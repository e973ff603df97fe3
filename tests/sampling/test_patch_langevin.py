from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gaussian_case import GaussianCase
from torch import nn

from klip_monai.physics import Identity, ParallelBeam, Tomography
from klip_monai.prior import (
    Denoiser,
    EDMDenoiser,
    GaussianDenoiser,
    PatchDenoiser,
    SongUNet,
    UNetDenoiser,
    ValueRangeDenoiser,
    log_sigmas,
)
from klip_monai.sampling import (
    GaussianEnergy,
    NormEnergy,
    PatchLangevin,
    Step,
    level_intervals,
    patch_langevin,
    renoise,
)
from klip_monai.scoring import KLAccumulator, Window
from klip_monai.slice_generator import SliceGenerator

STD, NOISE = 0.7, 0.1
EXACT = GaussianEnergy(noise_std=NOISE, data_std=STD)
LEVELS = log_sigmas(20, sigma_max=10.0, sigma_min=0.02).tolist()


@pytest.fixture(scope="module")
def identity():
    return GaussianCase.draw(Identity((5, 5)), std=STD, noise_std=NOISE)


@pytest.fixture(scope="module")
def tomography():
    operator = Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=4))
    return GaussianCase.draw(operator, std=STD, noise_std=NOISE)


def run(case: GaussianCase, *, batch: int = 2, seed: int = 0, denoiser: Denoiser | None = None, **options):
    generator = SliceGenerator(seed, range(batch))
    options = {"sigmas": LEVELS, "steps": 3, "energy": EXACT, "generator": generator} | options
    x = case.start(batch, options["sigmas"][0], generator)
    y = case.y.float().expand(batch, *case.operator.range_shape).contiguous()
    return patch_langevin(denoiser or GaussianDenoiser(std=STD), case.operator, y, x, **options)


def nats(case: GaussianCase, window: Window, *, batch: int = 100, **options) -> float:
    accumulator = KLAccumulator(window)
    run(case, batch=batch, callback=accumulator, **options)
    return float(accumulator.density().sum((1, 2, 3)).mean())


def exact_nats(case: GaussianCase, window: Window) -> float:
    generator, accumulator = SliceGenerator(1, range(200)), KLAccumulator(window)
    sigmas = log_sigmas(100, sigma_max=20.0, sigma_min=0.01).tolist()
    renoise(case.posterior(200), case.samples(200, generator), sigmas=sigmas, generator=generator, callback=accumulator)
    return float(accumulator.density().sum((1, 2, 3)).mean())


def predicted(case: GaussianCase, *, sigmas: list[float], steps: int, epsilon: float):
    """Mean and variance of the samples and their KL sum: for the identity each pixel is a linear recursion."""
    y = case.y.flatten()
    mean, variance, total = torch.zeros_like(y), torch.full_like(y, sigmas[0] ** 2), 0.0
    for sigma, (upper, lower) in zip(sigmas, level_intervals(sigmas), strict=True):
        alpha, gain = epsilon * sigma**2, STD**2 / (STD**2 + sigma**2)
        pull = gain / (sigma**2 * gain + NOISE**2)
        for _ in range(steps):
            move = (sigma**2 * pull) ** 2 * ((y - gain * mean) ** 2 + gain**2 * variance)
            total += float(move.sum()) * 0.5 * (lower**-2 - upper**-2) / steps
            keep = 1 - epsilon / 2 * (1 - gain) - alpha / 2 * pull * gain
            mean, variance = keep * mean + alpha / 2 * pull * y, keep**2 * variance + alpha
    return gain * mean, gain**2 * variance, total


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_samples_and_kl_are_those_of_the_recursion_that_it_is(identity, epsilon):
    settings, batch = {"sigmas": LEVELS, "steps": 3, "epsilon": epsilon}, 2000
    mean, variance, kl = predicted(identity, **settings)
    accumulator = KLAccumulator()
    flat = run(identity, batch=batch, callback=accumulator, **settings).flatten(1).double()
    assert float(((flat.mean(dim=0) - mean) / (variance / batch).sqrt()).abs().max()) < 5
    torch.testing.assert_close(flat.var(dim=0), variance, rtol=0.2, atol=0)
    assert float(accumulator.density().sum((1, 2, 3)).mean()) == pytest.approx(kl, rel=0.02)


def test_many_small_steps_give_the_posterior_and_its_kl_divergence(identity):
    sigmas = log_sigmas(60, sigma_max=20.0, sigma_min=0.005).tolist()
    mean, variance, kl = predicted(identity, sigmas=sigmas, steps=400, epsilon=0.05)
    torch.testing.assert_close(mean, identity.mean, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(variance, identity.covariance.diagonal(), rtol=0.03, atol=0)
    assert kl == pytest.approx(identity.kl, rel=0.03)


def test_few_large_steps_widen_the_samples(identity):
    coarse, fine = (predicted(identity, sigmas=LEVELS[:8], steps=50, epsilon=epsilon)[1] for epsilon in (1.0, 0.1))
    assert (coarse > fine).all()


def test_the_likelihood_is_too_weak_for_an_operator_that_sees_less_than_the_identity(tomography):
    everything = Window(10.0, 0.02)
    options = {"sigmas": log_sigmas(40, sigma_max=10.0, sigma_min=0.02).tolist(), "steps": 20, "epsilon": 0.5}
    found = nats(tomography, everything, **options)
    assert 0.2 * tomography.kl < found < 0.8 * tomography.kl


def test_norm_steps_follow_the_measurement_into_its_noise(tomography):
    exact, dps = (run(tomography, batch=50, energy=energy, steps=10) for energy in (EXACT, NormEnergy(zeta=0.3)))
    expected = tomography.y.numel() * NOISE**2

    def misfit(x: torch.Tensor) -> float:
        return float((tomography.y.float() - tomography.operator.A(x)).square().flatten(1).sum(1).mean())

    assert misfit(dps) < 0.6 * expected < misfit(exact)


def test_norm_steps_overstate_the_density_at_low_noise_and_understate_it_at_high_noise(identity):
    low, high = Window(0.1, 0.02), Window(10.0, 1.0)
    assert nats(identity, low, energy=NormEnergy(zeta=0.3)) > 3 * exact_nats(identity, low)
    assert nats(identity, high, energy=NormEnergy(zeta=0.3)) < 0.3 * exact_nats(identity, high)


def test_norm_steps_have_a_longest_move_at_every_level(tomography):
    lengths: list[float] = []

    def note(step: Step) -> None:
        lengths.append(float((step.denoised_posterior - step.denoised_prior).norm()))

    run(tomography, batch=1, energy=NormEnergy(zeta=0.3), epsilon=0.5, callback=note)
    assert max(lengths) <= 2 * 0.3 / 0.5 + 1e-4
    assert lengths[-1] > 10 * lengths[0]


@pytest.mark.parametrize("energy", [EXACT, NormEnergy(zeta=0.5)])
def test_the_data_step_makes_samples_consistent_with_the_measurement(tomography, energy):
    def misfit(x: torch.Tensor) -> float:
        return float((tomography.y.float() - tomography.operator.A(x)).norm())

    without = run(tomography, energy=NormEnergy(zeta=0.0))
    assert misfit(run(tomography, energy=energy)) < 0.5 * misfit(without)


def test_intervals_tile_each_level_in_equal_shares_of_snr(identity):
    steps: list[Step] = []
    run(identity, callback=steps.append, steps=4)
    assert len(steps) == 4 * len(LEVELS)
    assert (steps[0].sigma, steps[-1].sigma_next) == (LEVELS[0], LEVELS[-1])
    assert all(a.sigma_next == b.sigma for a, b in pairwise(steps))
    for k, (upper, lower) in enumerate(level_intervals(LEVELS)):
        own = steps[4 * k : 4 * k + 4]
        assert (own[0].sigma, own[-1].sigma_next) == (upper, lower)
        gains = [step.sigma_next**-2 - step.sigma**-2 for step in own]
        assert gains == pytest.approx([(lower**-2 - upper**-2) / 4] * 4)


def test_the_kl_sum_counts_a_level_once_however_many_steps_it_has(identity):
    # A data step that does not depend on the state moves the same in each step.
    class Constant:
        def __call__(self, residual, *, sigma, alpha):
            return alpha * residual.flatten(1).sum(1)

    wide = Window(10.0, 0.02)
    counts = [nats(identity, wide, batch=1, steps=steps, energy=Constant()) for steps in (1, 2, 7)]
    assert counts == pytest.approx(counts[:1] * 3, rel=1e-4)


def test_a_step_reports_the_denoisers_of_bayes(identity):
    steps: list[Step] = []
    run(identity, callback=steps.append, epsilon=0.5, sigmas=[2.0, 1.0], steps=1)
    first = steps[0]
    # x0 given x is N(D, r^2); times the likelihood N(y; x0, sy^2) its mean is this.
    variance = 4.0 * STD**2 / (STD**2 + 4.0)
    expected = first.denoised_prior + variance / (variance + NOISE**2) * (identity.y.float() - first.denoised_prior)
    torch.testing.assert_close(first.denoised_posterior, expected)


def test_same_seed_gives_the_same_bits_and_a_callback_changes_nothing(tomography):
    torch.manual_seed(0)
    first = run(tomography, seed=3)
    torch.manual_seed(1)
    assert torch.equal(first, run(tomography, seed=3, callback=lambda step: None))
    assert not torch.equal(first, run(tomography, seed=4))


def test_slices_of_a_batch_do_not_share_their_residuals(tomography):
    def sample(y: torch.Tensor) -> torch.Tensor:
        generator = SliceGenerator(0, range(2))
        x = tomography.start(2, LEVELS[0], generator)
        return patch_langevin(
            GaussianDenoiser(std=STD), tomography.operator, y, x, sigmas=LEVELS, generator=generator, steps=2
        )

    y = tomography.y.float()
    first, second = sample(torch.cat([y, y])), sample(torch.cat([y, 3 * y]))
    torch.testing.assert_close(second[0], first[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(second[1], first[1], atol=0.1)


@pytest.fixture
def patch_denoiser() -> PatchDenoiser:
    torch.manual_seed(0)
    unet = UNetDenoiser([8, 8], [8, 16], num_head_channels=8, norm_num_groups=4)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return PatchDenoiser(unet).eval()


def test_a_patch_prior_takes_a_new_partition_of_each_slice_at_each_step(patch_denoiser, identity, monkeypatch):
    visited = []
    one = patch_denoiser.denoise_patches

    def noted(x: torch.Tensor, sigma: float, offsets: list[tuple[int, int]]) -> torch.Tensor:
        visited.append(tuple(offsets))
        return one(x, sigma, offsets)

    monkeypatch.setattr(patch_denoiser, "denoise_patches", noted)
    run(identity, denoiser=patch_denoiser, sigmas=LEVELS[:4], steps=4)
    assert len(visited) == 4 * 4 + 1
    assert len(set(visited)) > 8
    assert any(first != second for first, second in visited)


@pytest.mark.parametrize("kind", ["patches", "whole slices"])
def test_networks_are_differentiated_even_in_inference_mode(patch_denoiser, kind):
    network: nn.Module = patch_denoiser if kind == "patches" else patch_denoiser.unet
    operator = Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=4))
    clean = torch.zeros(1, 1, 8, 8)

    def sample() -> torch.Tensor:
        y = operator.A(clean)
        x = 5.0 * torch.ones_like(clean)
        generator = SliceGenerator(0, [0])
        return patch_langevin(network, operator, y, x, sigmas=[5.0, 1.0], generator=generator, steps=2)

    plain = sample()
    with torch.inference_mode():
        assert torch.equal(sample(), plain)
    assert not plain.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_imported_patch_prior_takes_random_partitions_too(monkeypatch):
    # Patches of 8 from slices of 20, padded to the network's 28, of values in [0, 1].
    torch.manual_seed(0)
    model = SongUNet(28, 3, 1, model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[14])
    prior = PatchDenoiser(ValueRangeDenoiser(EDMDenoiser(model, (8, 8)), (0.0, 1.0))).eval()
    offsets = []
    one = prior.denoise_patches
    monkeypatch.setattr(prior, "denoise_patches", lambda x, sigma, at: offsets.extend(at) or one(x, sigma, at))
    operator = Tomography(ParallelBeam(image_shape=(20, 20), pixel_mm=1.0, views=4))
    start = torch.full((2, 1, 20, 20), -0.5)
    steps: list[Step] = []

    def sample(seed: int) -> torch.Tensor:
        generator = SliceGenerator(seed, range(2))
        sampler = PatchLangevin(levels=3, steps=3)
        return sampler.sample(prior, operator, operator.A(start), start, generator=generator, callback=steps.append)

    first = sample(1)
    assert first.shape == start.shape
    assert bool(first.isfinite().all())
    assert len(set(offsets)) > 4
    assert all(not torch.equal(step.denoised_posterior, step.denoised_prior) for step in steps)
    assert torch.equal(first, sample(1))
    assert not torch.equal(first, sample(2))


@pytest.mark.parametrize("options", [{"sigmas": []}, {"steps": 0}, {"epsilon": 0.0}, {"epsilon": 4.0}])
def test_impossible_settings_are_refused(identity, options):
    x, y = torch.zeros(1, 1, 5, 5), identity.y.float()
    settings = {"sigmas": [1.0], "generator": SliceGenerator(0, [0])} | options
    with pytest.raises(ValueError, match="expected at least one level and step, and 0 < epsilon < 4"):
        patch_langevin(GaussianDenoiser(), identity.operator, y, x, **settings)
