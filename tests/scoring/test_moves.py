"""The density of a whole scan: moves low-passed along it, slice by slice, before they are squared."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import ndimage

from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scoring import AlongScan, Moves, SliceMoves, Window
from klip_monai.scoring.density import Move

SHAPE = (16, 12)
PRIOR = GaussianDenoiser(std=0.7)


def along(values: torch.Tensor, *, slice_mm: float, sigma_mm: float, order: list[int] | None = None) -> torch.Tensor:
    """(Z, ...) through an `AlongScan`, in some order."""
    found, mean = {}, AlongScan(len(values), slice_mm=slice_mm, sigma_mm=sigma_mm)
    for place in range(len(values)) if order is None else order:
        found |= dict(mean(place, values[place]))
    return torch.stack([found[place] for place in range(len(values))])


def weights(slices: int, *, slice_mm: float, sigma_mm: float) -> torch.Tensor:
    """(Z, Z) of the mean along the scan."""
    return along(torch.eye(slices), slice_mm=slice_mm, sigma_mm=sigma_mm)


def scan(slices: int, *, seed: int = 0, shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    return torch.rand(slices, 1, *shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def inferer(**options) -> KLIPInferer:
    settings = {"operator": Identity(SHAPE), "sampler_levels": 0, "window_levels": 4, "lowpass_px": 2.0}
    return KLIPInferer.of(**settings | options)


@pytest.mark.parametrize("slice_mm", [0.6, 1.5, 5.0])
def test_mean_along_a_scan_is_the_gaussian_of_scipy_away_from_its_ends(slice_mm):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(80, 3)))
    expected = ndimage.gaussian_filter1d(values.numpy(), 3.0 / slice_mm, axis=0, radius=int(9 / slice_mm + 1e-6))
    inner = slice(20, -20)
    np.testing.assert_allclose(
        along(values, slice_mm=slice_mm, sigma_mm=3.0)[inner], expected[inner], rtol=1e-6, atol=1e-9
    )


def test_where_a_scan_ends_it_is_the_mean_of_the_slices_that_there_are():
    shares = weights(30, slice_mm=2.0, sigma_mm=3.0)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(30))
    assert float(shares[0, 0]) > float(shares[15, 15])
    assert not shares[0, 5:].any(), "nothing from farther than three standard deviations"


@pytest.mark.parametrize(("slices", "slice_mm"), [(1, 1.0), (4, 30.0)])
def test_a_slice_without_neighbours_in_reach_stays_as_it_is(slices, slice_mm):
    values = scan(slices)
    assert torch.equal(along(values, slice_mm=slice_mm, sigma_mm=3.0), values)


def test_the_order_in_which_slices_come_changes_no_bit():
    values, order = scan(25), list(range(25))
    expected = along(values, slice_mm=1.0, sigma_mm=3.0)
    for seed in range(3):
        random.Random(seed).shuffle(order)
        assert torch.equal(along(values, slice_mm=1.0, sigma_mm=3.0, order=order), expected)


def test_no_more_slices_are_kept_than_neighbours_need_however_long_the_scan():
    mean, most = AlongScan(1000, slice_mm=1.0, sigma_mm=3.0), 0
    for place in range(1000):
        mean(place, torch.zeros(1))
        most = max(most, len(mean._kept))
    assert most <= 2 * mean.reach + 1
    assert not mean._kept


def test_a_slice_with_nothing_in_it_counts_as_zero_and_is_given_back_as_nothing():
    mean = AlongScan(3, slice_mm=3.0, sigma_mm=3.0)
    found = dict(itertools.chain.from_iterable(mean(z, v) for z, v in enumerate([torch.ones(2), None, torch.ones(2)])))
    assert found[1] is None
    assert 0.5 < float(found[0][0]) < 1


def test_moves_of_slices_give_the_density_of_the_accumulator():
    slices = scan(3)
    for options in (
        {},
        {"noise_px": 8.0},
        {"noise_px": 8.0, "samples": 2, "draws": 2, "sampler_levels": 3, "crossed": True},
    ):
        one = inferer(**options)
        flat, whole = one(slices, PRIOR), one.changed(lowpass_z_mm=1e-9)(slices, PRIOR, slice_mm=2.0)
        torch.testing.assert_close(whole, flat, rtol=1e-5, atol=1e-7)


def test_moves_outside_of_the_window_are_refused():
    with pytest.raises(ValueError, match="no step had a noise level within"):
        Moves(Window(2.0, 1.0), lowpass_px=1.0, noise_px=0.0).of_slices()


def test_density_of_a_gaussian_prior_is_the_closed_form_in_three_dimensions():
    # The prior N(0, s^2) of each voxel moves by mu, and narrows alike everywhere, which is worth c nats. With W the
    # mean along the scan: 1/2 |W mu|^2 / s^2 + c |W|^2.
    slices, std, noise, draws = 6, 0.7, 0.1, 40
    images = scan(slices, seed=3, shape=(8, 8))
    one = KLIPInferer.of(
        Identity((8, 8)),
        noise_std=noise,
        data_std=std,
        window=(80.0, 0.002),
        window_levels=128,
        sampler_levels=200,
        sigma_max=80.0,
        sigma_min=0.002,
        lowpass_px=0.0,
        smoothing_px=0.0,
        lowpass_z_mm=2.0,
    )
    nats = [
        float(one.changed(seed=seed)(images, GaussianDenoiser(std=std), slice_mm=1.5).sum()) for seed in range(draws)
    ]
    share = std**2 / (std**2 + noise**2)
    ratio = noise**2 / (std**2 + noise**2)
    w = weights(slices, slice_mm=1.5, sigma_mm=2.0)
    # y is noisy too, and mu is what it says.
    mu = torch.einsum("ij,j...->i...", w, share * images).square().sum()
    narrowing = 0.5 * (ratio - 1 - np.log(ratio)) + 0.5 * (share * noise / std) ** 2
    expected = 0.5 * float(mu) / std**2 + narrowing * float(w.square().sum()) * images[0].numel()
    assert np.mean(nats) == pytest.approx(expected, rel=0.03)
    assert expected < 0.7 * (0.5 * float((share * images).square().sum()) / std**2 + narrowing * images.numel())


@pytest.mark.parametrize("slice_mm", [0.0, -3.0, float("nan"), float("inf")])
def test_what_is_no_distance_of_slices_is_refused(slice_mm):
    with pytest.raises(ValueError, match=f"slice_mm: got {slice_mm}, expected"):
        AlongScan(3, slice_mm=slice_mm, sigma_mm=3.0)
    with pytest.raises(ValueError, match=f"slice_mm: got {slice_mm}, expected"):
        AlongScan(3, slice_mm=slice_mm, sigma_mm=0.0)


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("noise_px", [0.0, 6.0, 16.0])
def test_levels_that_are_read_together_give_the_bits_of_each_by_itself(crossed, noise_px):
    values = torch.randn(2, 3, 4, 2 + crossed, 24, 20, generator=torch.Generator().manual_seed(0))
    moves = SliceMoves(values, (0.7, 0.3, 1.1, 0.2), crossed, noise_px, coarser=1)
    expected = torch.zeros(6, 1, 24, 20)
    for level, weight in enumerate(moves.weights):
        move, *rest = values[:, :, level].flatten(0, 1).split(1, dim=1)
        expected += weight * Move(move, rest[0] if crossed else move, rest[-1], 1).squared(noise_px)
    assert torch.equal(moves.density().flatten(0, 1), expected[:, 0].clamp_min(0))
