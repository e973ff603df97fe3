from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klip_monai.errors import InputError
from klip_monai.physics import FanBeam, FinerGrid, ParallelBeam, Tomography
from klip_monai.scoring import smooth

GEOMETRIES = [
    ParallelBeam(image_shape=(32, 28), pixel_mm=3.0, views=9),
    FanBeam(image_shape=(32, 28), pixel_mm=3.0, views=9, source_mm=300.0, detector_mm=200.0),
]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(2, 4))
def test_adjoint_is_exact_and_the_spectral_norm_is_one(height, width, views, factor):
    operator = FinerGrid(ParallelBeam(image_shape=(height, width), pixel_mm=1.3, views=views), factor=factor)
    x, y = random(2, 1, height, width, seed=0), random(2, *operator.range_shape, seed=1)
    torch.testing.assert_close((operator.A(x) * y).sum(), (x * operator.A_adjoint(y)).sum())
    dense = operator.A(torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)).flatten(1)
    assert float(torch.linalg.matrix_norm(dense, 2)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["parallel", "fan"])
def test_it_measures_the_same_rays_nearly_but_not_exactly_alike(geometry):
    coarse, fine = Tomography(geometry), FinerGrid(geometry)
    image = smooth(random(1, 1, 32, 28, seed=0).float(), sigma_px=3.0)
    image[..., 8:24, 8:20] += 1
    here, there = coarse.A(image) / coarse.scale, fine.A(image) / fine.scale
    assert fine.range_shape == coarse.range_shape
    assert 1e-3 < float((here - there).norm() / here.norm()) < 0.05


def test_factors_that_refine_nothing_are_refused():
    with pytest.raises(InputError, match="factor: got 1"):
        FinerGrid(GEOMETRIES[0], factor=1)
