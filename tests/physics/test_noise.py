"""Noise against brute force: many simulated scans of one slice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.physics import AttenuationScale, GaussianNoise, Identity, ParallelBeam, PoissonNoise, Tomography
from klip_monai.slice_generator import SliceGenerator

OPERATOR = Tomography(ParallelBeam(image_shape=(16, 16), pixel_mm=12.0, views=4, detectors=24))
WIDE, NARROW = AttenuationScale.from_hu((-1000.0, 1000.0)), AttenuationScale.from_hu((-160.0, 240.0))


def body(value: float) -> torch.Tensor:
    """A slice that is -1 but for a block of one value."""
    x = torch.full((1, 1, 16, 16), -1.0)
    x[..., 3:13, 4:12] = value
    return x


def scans(noise, x: torch.Tensor, n: int):
    y = OPERATOR.A(x)
    generator = SliceGenerator(0, range(n))
    return y, noise.apply(
        y.expand(n, -1, -1, -1), images=x.expand(n, -1, -1, -1), operator=OPERATOR, generator=generator
    )


def test_gaussian_noise_has_its_standard_deviation_and_describes_itself_as_ever():
    y, measured = scans(GaussianNoise(0.2), body(0.3), 2000)
    assert measured.std == 0.2
    assert float((measured.y - y).std()) == pytest.approx(0.2, rel=0.01)
    assert float((measured.y - y).mean()) == pytest.approx(0.0, abs=0.01)
    assert GaussianNoise(0.2).describe() == {"noise_std": 0.2}
    with pytest.raises(InputError, match="noise_std: got 0"):
        GaussianNoise(0.0)


@pytest.mark.parametrize(("scale", "value"), [(WIDE, 0.0), (WIDE, 0.3), (NARROW, 0.2)])
def test_each_ray_has_the_mean_and_the_variance_of_its_photons(scale, value):
    photons, n = 2e4, 4000
    noise, x = PoissonNoise(photons, scale), body(value)
    y, measured = scans(noise, x, n)
    # Independent of the code: attenuation of the block alone, and numpy's photons.
    lines = OPERATOR.A((x > -1) * (scale.middle + scale.slope * value)).double().numpy() / OPERATOR.scale
    counts = np.random.default_rng(1).poisson(photons * np.exp(-lines), size=(n, *lines.shape[1:]))
    brute = -np.log(counts / photons) * OPERATOR.scale / scale.slope
    torch.testing.assert_close(measured.y.var(dim=0), torch.from_numpy(brute.var(axis=0)).float(), rtol=0.2, atol=0)
    variance = np.exp(lines[0]) / photons * (OPERATOR.scale / scale.slope) ** 2
    np.testing.assert_allclose(measured.y.var(dim=0).numpy(), variance, rtol=0.12)
    np.testing.assert_allclose((measured.std**2).mean(dim=0).numpy(), variance, rtol=0.02)
    np.testing.assert_allclose((measured.y - y).mean(dim=0).numpy(), 0, atol=5 * variance.max() ** 0.5 / n**0.5 + 1e-4)
    assert lines.max() > 1
    assert variance.max() > 2.5 * variance.min()


def test_air_that_the_window_clips_away_costs_no_photons():
    noise, x = PoissonNoise(1e4, NARROW), torch.full((1, 1, 16, 16), -1.0)
    _, measured = scans(noise, x, 1)
    torch.testing.assert_close(
        measured.std, torch.full_like(measured.std, 0.01 * NARROW.unit(OPERATOR)), rtol=0.05, atol=0
    )


def test_starved_rays_stay_finite_and_count_least():
    _, measured = scans(PoissonNoise(1.0, AttenuationScale(0.0, 0.2)), body(1.0), 3)
    assert bool(torch.isfinite(measured.y).all())
    assert float(measured.std.max()) == pytest.approx(AttenuationScale(0.0, 0.2).unit(OPERATOR), rel=1e-4)


def test_the_seed_decides_the_photons():
    one, two, other = (
        PoissonNoise(1e3, WIDE).apply(
            OPERATOR.A(body(0.1)), images=body(0.1), operator=OPERATOR, generator=SliceGenerator(seed, [0])
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.y, two.y)
    assert not torch.equal(one.y, other.y)


def test_impossible_photons_are_refused_and_descriptions_survive_json():
    with pytest.raises(InputError, match="photons: got 0"):
        PoissonNoise(0, WIDE)
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(InputError, match="noise: got PoissonNoise with Identity, expected a Tomography"):
        PoissonNoise(1e3, WIDE).apply(x, images=x, operator=Identity((4, 4)), generator=SliceGenerator(0, [0]))
    described = PoissonNoise(1e3, WIDE).describe()
    assert json.loads(json.dumps(described)) == described
    assert described != PoissonNoise(1e4, WIDE).describe()
