from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.layers import GaussianFilter
from scipy.ndimage import gaussian_filter

from klip_monai.sampling import Step
from klip_monai.scoring import KLAccumulator, Window, block_scores, smooth
from klip_monai.scoring.density import squared_move

LEVELS = [3.0, 1.0, 0.5, 0.3, 0.12, 0.05]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def steps(levels: list[float] = LEVELS) -> list[Step]:
    pairs = enumerate(pairwise(levels))
    return [Step(hi, lo, noise(2, 1, 6, 5, seed=i), noise(2, 1, 6, 5, seed=100 + i)) for i, (hi, lo) in pairs]


def density(window: Window | None, of: list[Step]) -> torch.Tensor:
    accumulator = KLAccumulator(window)
    for step in of:
        accumulator(step)
    return accumulator.density()


def test_weight_is_half_the_gain_in_signal_to_noise_ratio():
    assert Window().weight(0.5, 0.25) == pytest.approx(0.5 * (16 - 4))
    assert Window().weight(float("inf"), 0.5) == pytest.approx(2.0)


@given(
    edges=st.lists(st.floats(0.01, 10), min_size=2, max_size=6, unique=True),
    levels=st.lists(st.floats(0.01, 10), min_size=2, max_size=6, unique=True),
)
@settings(deadline=None, max_examples=60)
def test_adjacent_windows_add_up_to_the_whole(edges, levels):
    edges, levels = sorted(edges, reverse=True), sorted(levels, reverse=True)
    for sigma, sigma_next in pairwise(levels):
        parts = sum(Window(high, low).weight(sigma, sigma_next) for high, low in pairwise(edges))
        whole = Window(edges[0], edges[-1]).weight(sigma, sigma_next)
        assert parts == pytest.approx(whole, rel=1e-9, abs=1e-9 * edges[-1] ** -2)


def test_densities_of_adjacent_windows_add_up_to_the_whole():
    parts = [density(Window(high, low), steps()) for high, low in ((float("inf"), 0.4), (0.4, 0.2), (0.2, 0.0))]
    torch.testing.assert_close(sum(parts), density(None, steps()))


def test_a_step_over_an_edge_counts_with_the_part_inside():
    window = Window(high=0.4, low=0.1)
    assert window.weight(0.8, 0.2) == Window().weight(0.4, 0.2)
    assert window.weight(0.2, 0.05) == Window().weight(0.2, 0.1)
    assert window.weight(0.8, 0.05) == Window().weight(0.4, 0.1)
    assert window.weight(0.8, 0.4) == window.weight(0.1, 0.05) == 0


@pytest.mark.parametrize(("high", "low"), [(0.1, 0.4), (0.2, 0.2), (1.0, -0.1), (float("nan"), 0.1)])
def test_impossible_windows_are_refused(high, low):
    with pytest.raises(ValueError, match=f"window: got high {high} and low {low}, expected 0 <= low < high"):
        Window(high, low)


def test_density_is_the_weighted_sum_of_squared_moves():
    weights = [0.5 * (lo**-2 - hi**-2) for hi, lo in pairwise(LEVELS)]
    moves = [(step.denoised_posterior - step.denoised_prior) ** 2 for step in steps()]
    torch.testing.assert_close(density(None, steps()), sum(w * m for w, m in zip(weights, moves, strict=True)))


def test_lowpass_leaves_broad_moves_and_takes_out_grain():
    broad = torch.cos(torch.linspace(0, 2 * torch.pi, 64))[None, None, :, None].expand(1, 1, 64, 64)
    grain = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 1, 64, 64)
    inner = (..., slice(8, -8), slice(8, -8))
    kept = []
    for move in (broad, grain):
        plain, lowpassed = KLAccumulator(), KLAccumulator(lowpass_px=1.0)
        for accumulator in (plain, lowpassed):
            accumulator(Step(0.4, 0.2, torch.zeros_like(move), move))
        kept.append(float(lowpassed.density()[inner].sum() / plain.density()[inner].sum()))
    assert kept[0] == pytest.approx(1, abs=0.03)
    assert kept[1] < 0.01


def test_lowpassed_density_is_the_divergence_weighted_by_spatial_frequency():
    move = torch.zeros(1, 1, 64, 64)  # zero towards the border, so that the periodic spectrum sees the same convolution
    move[..., 24:40, 24:40] = noise(1, 1, 16, 16) - 0.5
    impulse = torch.zeros(1, 1, 64, 64)
    impulse[..., 32, 32] = 1.0
    accumulator = KLAccumulator(lowpass_px=1.3)
    accumulator(Step(0.4, 0.2, torch.zeros_like(move), move))
    transfer = torch.fft.fft2(smooth(impulse, sigma_px=1.3)).abs()
    spectrum = torch.fft.fft2(move).abs() * transfer
    expected = 0.5 * (0.2**-2 - 0.4**-2) * float(spectrum.square().sum()) / 64**2
    assert float(accumulator.density().sum()) == pytest.approx(expected, rel=1e-4)


def test_draws_are_averaged():
    accumulator = KLAccumulator()
    for step in steps() * 3:
        accumulator(step)
    torch.testing.assert_close(accumulator.density(draws=3), density(None, steps()))


def test_one_tensor_is_kept_and_the_steps_are_left_alone():
    accumulator, given_steps = KLAccumulator(), steps()
    before = [(step.denoised_prior.clone(), step.denoised_posterior.clone()) for step in given_steps]
    pointers = set()
    for step in given_steps:
        accumulator(step)
        kept = [value for value in vars(accumulator).values() if isinstance(value, torch.Tensor)]
        assert [value.shape for value in kept] == [(2, 1, 6, 5)]
        pointers.add(kept[0].data_ptr())
    assert len(pointers) == 1
    for step, (prior, posterior) in zip(given_steps, before, strict=True):
        assert torch.equal(step.denoised_prior, prior)
        assert torch.equal(step.denoised_posterior, posterior)


def test_reading_the_density_does_not_end_the_sum():
    accumulator = KLAccumulator()
    for step in steps():
        accumulator(step)
        first = accumulator.density().clone()
    torch.testing.assert_close(accumulator.density(), first)
    torch.testing.assert_close(accumulator.density(draws=2), first / 2)


def test_a_window_that_no_step_meets_is_an_error():
    with pytest.raises(ValueError, match=r"window: no step had a noise level within 0\.001 to 0\.01"):
        density(Window(0.01, 0.001), steps())
    with pytest.raises(ValueError, match="no step"):
        KLAccumulator().density()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_block_scores_keep_the_total(size):
    maps = noise(3, 1, 16, 24)
    blocks = block_scores(maps, size=size)
    assert blocks.shape == (3, 1, 16 // size, 24 // size)
    torch.testing.assert_close(blocks.sum(dim=(1, 2, 3)), maps.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(blocks[1, 0, 0, -1], maps[1, 0, :size, -size:].sum())


@pytest.mark.parametrize("size", [5, 3, 32])
def test_blocks_that_do_not_tile_the_image_are_refused(size):
    with pytest.raises(ValueError, match=rf"size: got blocks of {size} pixels, expected a divisor of \(16, 20\)"):
        block_scores(noise(1, 1, 16, 20), size=size)


# SciPy samples the Gaussian, MONAI integrates it over each pixel: alike once it is a few pixels wide.
@pytest.mark.parametrize(("sigma", "rtol"), [(1.0, 0.05), (2.0, 0.01), (3.5, 0.01)])
def test_smoothing_is_a_gaussian_of_the_given_width(sigma, rtol):
    maps = noise(2, 1, 48, 40)
    margin = int(4 * sigma) + 1
    found = smooth(maps, sigma_px=sigma)
    assert found.shape == maps.shape
    inside = (slice(margin, -margin), slice(margin, -margin))
    for image, smoothed in zip(maps[:, 0], found[:, 0], strict=True):
        expected = gaussian_filter(image.double().numpy(), sigma)
        torch.testing.assert_close(smoothed[inside].double(), torch.from_numpy(expected)[inside], rtol=rtol, atol=0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_smoothing_keeps_mass_and_place_of_what_lies_away_from_the_border(sigma):
    maps = torch.zeros(1, 1, 64, 64)
    maps[0, 0, 30, 34], maps[0, 0, 25, 28] = 5.0, 2.0
    smoothed = smooth(maps, sigma_px=sigma)
    assert float(smoothed.sum()) == pytest.approx(7.0, rel=0.005)
    for axis, expected in ((2, (30 * 5 + 25 * 2) / 7), (3, (34 * 5 + 28 * 2) / 7)):
        along = smoothed.sum(dim=5 - axis).flatten()
        assert float((along * torch.arange(64)).sum() / along.sum()) == pytest.approx(expected, abs=1e-3)
    assert float(smoothed.min()) >= 0


def test_no_smoothing_leaves_the_density_as_it_is():
    maps = noise(1, 1, 8, 8)
    assert torch.equal(smooth(maps, sigma_px=0), maps)


def test_slices_are_smoothed_apart():
    maps = torch.zeros(3, 1, 32, 32)
    maps[1, 0, 16, 16] = 1.0
    smoothed = smooth(maps, sigma_px=2.0)
    assert not smoothed[0].any()
    assert not smoothed[2].any()


@pytest.mark.parametrize("side", [20, 256])
def test_many_slices_are_smoothed_as_each_by_itself_to_the_last_bit(side):
    maps = noise(5, 2, side, side - 3)
    each = torch.cat([smooth(maps[n : n + 1], sigma_px=3.0) for n in range(len(maps))])
    assert torch.equal(smooth(maps, sigma_px=3.0), each)


def noisy_step(*, slices: int, response: float, lesion: float = 0.0, seed: int = 0) -> Step:
    """A move that follows the drawn noise, as that of a denoiser does, with a lesion in the middle."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(slices, 1, 64, 64, generator=generator)
    other = torch.randn(slices, 1, 64, 64, generator=generator)
    move = -response * drawn + 0.5 * other
    move[..., 24:40, 24:40] += lesion
    return Step(0.4, 0.2, torch.zeros_like(move), move, noise=drawn)


def test_spreading_what_the_noise_explains_keeps_the_mean_and_takes_variance_out():
    step = noisy_step(slices=64, response=2.0)
    plain, spread = (squared_move(step, lowpass_px=1.0, noise_px=width) for width in (0.0, 12.0))
    inner = (..., slice(16, 48), slice(16, 48))
    assert float(spread[inner].mean()) == pytest.approx(float(plain[inner].mean()), rel=0.02)
    means = [smooth(values, sigma_px=2.0)[inner].std() / values[inner].mean() for values in (plain, spread)]
    assert float(means[1]) < 0.35 * float(means[0])


def test_a_lesion_stands_out_of_spread_noise_more_than_of_noise_as_it_fell():
    step = noisy_step(slices=32, response=2.0, lesion=1.0)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[26:38, 26:38] = True
    gaps = []
    for width in (0.0, 12.0):
        values = smooth(squared_move(step, lowpass_px=1.0, noise_px=width), sigma_px=2.0)[:, 0]
        gaps.append((values[:, inside].mean() - values[:, ~inside].mean()) / values[:, ~inside].std())
    assert float(gaps[1]) > 1.5 * float(gaps[0])


def test_noise_that_explains_nothing_changes_next_to_nothing():
    step = noisy_step(slices=8, response=0.0)
    plain, spread = (squared_move(step, lowpass_px=1.0, noise_px=width) for width in (0.0, 16.0))
    assert float((spread - plain).abs().mean() / plain.mean()) < 0.15


def test_steps_without_their_noise_count_as_they_are():
    step = noisy_step(slices=2, response=1.0)
    unknown = replace(step, noise=None)
    assert torch.equal(squared_move(unknown, lowpass_px=1.0, noise_px=8.0), squared_move(step, lowpass_px=1.0))


def test_spreading_a_crossed_move_keeps_its_mean():
    generator = torch.Generator().manual_seed(4)
    step = replace(noisy_step(slices=64, response=2.0), sample=torch.randn(64, 1, 64, 64, generator=generator))
    step = replace(step, sample=step.denoised_posterior + 0.5 * step.sample)
    plain, spread = (squared_move(step, lowpass_px=1.0, noise_px=width) for width in (0.0, 12.0))
    inner = (..., slice(16, 48), slice(16, 48))
    assert float(spread[inner].mean()) == pytest.approx(float(plain[inner].mean()), rel=0.03)
    assert float(spread[inner].std()) < 0.6 * float(plain[inner].std())


@pytest.mark.parametrize("shape", [(256, 192), (160, 224), (100, 96), (7, 5)])
def test_smoothing_is_that_of_monai(shape):
    values = noise(2, 3, *shape)
    expected = GaussianFilter(2, sigma=2.0, truncated=3.0)(values)
    torch.testing.assert_close(smooth(values, sigma_px=2.0), expected, rtol=1e-5, atol=1e-6)
