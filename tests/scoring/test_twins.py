from __future__ import annotations

import pytest
import torch

from klip_monai.scoring import over_twins, twin_p_values


def test_a_slice_like_its_twins_scores_one_everywhere():
    density = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    twins = density.expand(2, 3, 16, 16)
    torch.testing.assert_close(over_twins(density, twins, smoothing_px=0), torch.ones_like(density))


def test_the_ratio_says_how_many_times_the_twins_and_is_one_where_nothing_scores():
    density, twins = torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16)
    density[..., 8:], twins[..., 8:] = 6.0, 2.0
    ratio = over_twins(density, twins, smoothing_px=0)
    torch.testing.assert_close(ratio[..., :8], torch.ones(1, 1, 16, 8))
    assert 2.7 < float(ratio[..., 8:].mean()) < 3.0
    assert torch.isfinite(over_twins(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8), smoothing_px=1.0)).all()


def test_p_values_of_a_healthy_pixel_are_uniform_and_those_of_an_anomaly_are_the_least():
    generator = torch.Generator().manual_seed(1)
    heatmap, twins = torch.rand(1, 1, 100, 100, generator=generator), torch.rand(1, 19, 100, 100, generator=generator)
    p = twin_p_values(heatmap, twins)
    for level in (0.05, 0.5):
        assert abs(float((p <= level).float().mean()) - level) < 0.02
    assert float(twin_p_values(heatmap + 1, twins).max()) == pytest.approx(1 / 20)
