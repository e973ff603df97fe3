"""The denoising error and the ELBO of a white Gaussian prior have closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from white_noise import NETWORK, SHAPE, STD, slices

from klip_monai.evaluation.baselines import DenoisingError, NegativeELBO
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import log_sigmas


def test_the_error_is_the_weighted_sum_of_bias_and_noise():
    x = torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).reshape(1, 1, *SHAPE)
    expected = torch.zeros_like(x)
    for sigma, sigma_next in pairwise(log_sigmas(6, sigma_max=1.0, sigma_min=0.1).tolist()):
        keep = STD**2 / (STD**2 + sigma * sigma_next)  # at the geometric middle
        error = (1 - keep) ** 2 * x.square() + keep**2 * sigma * sigma_next
        expected += 0.5 * (sigma_next**-2 - sigma**-2) * error
    found = DenoisingError(window=(1.0, 0.1), window_levels=5, draws=400)(x, NETWORK)
    assert float(found.mean()) == pytest.approx(float(expected.mean()), rel=0.01)
    torch.testing.assert_close(found, expected, rtol=0.3, atol=0.1)


def test_klip_becomes_the_denoising_error_where_the_measurement_leaves_nothing_open():
    images, options = slices(2), {"window": (1.0, 0.1), "window_levels": 6, "draws": 100, "lowpass_px": 1.0}
    klip = KLIPInferer.of(Identity(SHAPE), sampler_levels=0, noise_std=1e-4, smoothing_px=0, **options)
    torch.testing.assert_close(DenoisingError(**options)(images, NETWORK), klip(images, NETWORK), rtol=0.3, atol=0.02)


@pytest.mark.parametrize(
    ("std", "sigma_max"), [(STD, 10.0), (0.5 * STD, 10.0), (2 * STD, 10.0), (STD, 0.3), (2 * STD, 0.3)]
)
def test_the_bound_is_the_exact_likelihood_of_a_gaussian_prior(std, sigma_max):
    images = slices(3, std=std)
    exact = -torch.distributions.Normal(0.0, STD).log_prob(images)
    options = {"levels": 60, "draws": 60, "data_std": STD, "sigma_max": sigma_max}
    torch.testing.assert_close(
        NegativeELBO(level="slice", **options)(images, NETWORK), exact.sum(dim=(1, 2, 3)), rtol=0.02, atol=10
    )


def test_the_map_sums_to_the_slice_score():
    images = slices(2)
    maps, scores = (NegativeELBO(level=level, data_std=STD)(images, NETWORK) for level in ("pixel", "slice"))
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), scores, rtol=1e-4, atol=1e-2)
