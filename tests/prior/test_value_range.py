from __future__ import annotations

import pytest
import torch
from torch import nn

from klip_monai.errors import BundleError
from klip_monai.prior import GaussianDenoiser, ValueRangeDenoiser


class Gaussian(nn.Module):
    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.denoise = GaussianDenoiser(mean=mean, std=std)

    def forward(self, x, sigma):
        return self.denoise(x, sigma)


def test_the_prior_of_other_values_becomes_the_prior_of_slices():
    # Values 0.75 +- 0.1 in [0, 1] are 0.5 +- 0.2 in [-1, 1].
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    wrapped = ValueRangeDenoiser(Gaussian(0.75, 0.1), (0, 1))
    for sigma in (0.3, torch.tensor([0.1, 2.0])):
        torch.testing.assert_close(wrapped(x, sigma), GaussianDenoiser(mean=0.5, std=0.2)(x, sigma))


def test_positions_and_the_shape_of_patches_pass_through():
    class Patch(nn.Module):
        image_shape = (4, 6)

        def forward(self, x, sigma, box):
            return box[:, 0, None, None, None].expand_as(x)

    wrapped = ValueRangeDenoiser(Patch(), (0, 1))
    assert wrapped.image_shape == (4, 6)
    box = torch.tensor([[0.0, 0, 1, 1], [1.0, 0, 1, 1]])
    assert wrapped(torch.zeros(2, 1, 4, 6), 1.0, box)[:, 0, 0, 0].tolist() == [-1.0, 1.0]


def test_an_empty_range_is_refused():
    with pytest.raises(BundleError, match="value_range"):
        ValueRangeDenoiser(Gaussian(0, 1), (1, 1))
