"""Random numbers of slices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klip_monai.errors import InputError
from klip_monai.slice_generator import SliceGenerator

PLACES = st.lists(st.integers(0, 2000), min_size=1, max_size=6)


def numbers(generator: SliceGenerator) -> torch.Tensor:
    """What each slice draws one after the other, (B, 18)."""
    rows = len(generator)
    first = generator.normal(torch.empty(rows, 2, 3, dtype=torch.float64)).flatten(1)
    counts = generator.poisson(torch.full((rows, 5), 7.0, dtype=torch.float64))
    whole = torch.tensor(generator.integers(1000), dtype=torch.float64)[:, None]
    repeats = generator.repeated(2).normal(torch.empty(2 * rows, 3, dtype=torch.float64)).reshape(rows, 6)
    return torch.cat([first, counts, whole, repeats], dim=1)


@given(st.integers(-5, 2**63 - 1), PLACES)
@settings(max_examples=30, deadline=None)
def test_what_a_slice_draws_follows_from_the_seed_and_its_place_alone(seed, places):
    together = numbers(SliceGenerator(seed, places))
    for row, place in zip(together, places, strict=True):
        assert torch.equal(row, numbers(SliceGenerator(seed, [place]))[0])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 500)), min_size=2, max_size=8, unique=True))
@settings(max_examples=30, deadline=None)
def test_another_seed_or_place_draws_other_numbers(keys):
    drawn = torch.cat([numbers(SliceGenerator(seed, [place])) for seed, place in keys])
    assert len(drawn.unique(dim=0)) == len(keys)


def test_noise_is_standard_normal_and_independent_between_slices_draws_and_repeats():
    generator, like = SliceGenerator(0, range(3)), torch.empty(3, 1, 150, 150)
    drawn = [generator.normal(like), generator.normal(like)]
    drawn += list(generator.repeated(2).normal(torch.empty(6, 1, 150, 150)).split(3))
    flat = torch.cat(drawn).flatten(1)
    correlation = flat @ flat.T / flat.shape[1]
    torch.testing.assert_close(correlation, torch.eye(len(flat)), rtol=0, atol=0.04)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(len(flat)), rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_shape_and_dtype_of_what_it_is_for(dtype):
    like = torch.empty(2, 1, 4, 5, dtype=dtype)
    noise, counts = SliceGenerator(0, [0, 1]).normal(like), SliceGenerator(0, [0, 1]).poisson(torch.ones_like(like))
    assert noise.shape == counts.shape == like.shape
    assert noise.dtype == counts.dtype == dtype


def test_the_first_repeats_are_the_same_however_many_there_are():
    two, five = (SliceGenerator(3, [7, 8]).repeated(n).normal(torch.empty(2 * n, 9)) for n in (2, 5))
    assert torch.equal(two.reshape(2, 2, 9), five.reshape(2, 5, 9)[:, :2])


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(InputError, match="generator: got one of 3 slices for a batch of 2"):
        SliceGenerator(0, range(3)).normal(torch.empty(2, 1, 4, 4))
