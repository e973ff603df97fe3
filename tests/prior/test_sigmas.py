from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klip_monai.errors import InputError
from klip_monai.prior import log_sigmas


@given(st.integers(2, 100), st.floats(1e-3, 0.5), st.floats(1, 100))
def test_levels_descend_from_the_largest_to_the_smallest(n, low, high):
    sigmas = log_sigmas(n, sigma_min=low, sigma_max=high)
    assert sigmas.shape == (n,)
    assert sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([high, low]), rtol=1e-5, atol=0)


def test_log_levels_have_a_constant_ratio():
    sigmas = log_sigmas(9, sigma_max=80.0, sigma_min=0.002).double()
    ratio = sigmas[1:] / sigmas[:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand(8), rtol=1e-6, atol=0)


def test_one_level_is_the_largest():
    assert log_sigmas(1, sigma_min=0.1, sigma_max=2.0).tolist() == [2.0]


@pytest.mark.parametrize(("n", "low", "high"), [(0, 0.1, 1.0), (3, 0.0, 1.0), (3, 2.0, 1.0)])
def test_an_impossible_range_is_refused(n, low, high):
    with pytest.raises(InputError, match="expected"):
        log_sigmas(n, sigma_min=low, sigma_max=high)
