"""The KL density by noise level."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from klip_monai.sampling import Step
from klip_monai.scoring import DensitySpectrum, KLAccumulator, Window

EDGES = [2.0, 1.0, 0.5, 0.25]


def steps(batch: int = 4) -> list[Step]:
    """Intervals that do not end at the edges, and one that straddles two of them."""
    generator = torch.Generator().manual_seed(0)
    levels = [5.0, 1.7, 1.1, 0.4, 0.3, 0.1]
    return [
        Step(high, low, *torch.randn(2, batch, 1, 8, 8, generator=generator).unbind()) for high, low in pairwise(levels)
    ]


@pytest.mark.parametrize("window", [(2.0, 0.25), (2.0, 1.0), (1.0, 0.5), (1.0, 0.25)])
def test_any_window_between_edges_sums_to_what_an_accumulator_of_that_window_finds(window):
    spectrum = DensitySpectrum(EDGES, lowpass_px=[0.0, 1.5])
    accumulators = [KLAccumulator(Window(*window), lowpass_px=lowpass) for lowpass in (0.0, 1.5)]
    for step in steps():
        for sink in (spectrum, *accumulators):
            sink(step)
    found = spectrum.densities()[:, :, spectrum.bins(Window(*window))].sum(dim=2)
    for row, accumulator in enumerate(accumulators):
        torch.testing.assert_close(found[:, row, None], accumulator.density())


def test_samples_of_a_slice_and_draws_are_averaged():
    spectrum = DensitySpectrum(EDGES)
    for step in steps(batch=6):
        spectrum(step)
    alone = spectrum.densities()
    torch.testing.assert_close(spectrum.densities(samples=3, draws=2), alone.unflatten(0, (2, 3)).mean(dim=1) / 2)


def test_a_window_wider_than_the_edges_takes_all_bins():
    spectrum = DensitySpectrum(EDGES)
    assert spectrum.bins(Window()) == slice(0, 3)
    assert spectrum.bins(Window(1.0)) == slice(1, 3)


@pytest.mark.parametrize("window", [Window(1.5, 0.25), Window(1.0, 0.3)])
def test_a_window_that_ends_between_edges_is_refused(window):
    with pytest.raises(ValueError, match=r"window: got .* expected two of the edges 2, 1, 0.5, 0.25"):
        DensitySpectrum(EDGES).bins(window)


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [0.5, 1.0]])
def test_edges_that_are_no_bins_are_refused(edges):
    with pytest.raises(ValueError, match="expected two descending noise levels"):
        DensitySpectrum(edges)


def test_no_step_within_the_edges_is_said():
    with pytest.raises(ValueError, match=r"no step had a noise level within 2 to 0.25"):
        DensitySpectrum(EDGES).densities()
