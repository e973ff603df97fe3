"""Statistics of a Gaussian prior's score have closed forms; unusual ones on either side are unlikely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from white_noise import NETWORK, STD, ready, slices

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines import MSMA, DiffPath
from klip_monai.prior import log_sigmas


def test_score_norms_are_those_of_the_clean_slice():
    images = slices(3)
    sigmas = log_sigmas(4, sigma_max=1.0, sigma_min=0.1).flip(0)
    expected = images.flatten(1).norm(dim=1)[:, None] * sigmas / (STD**2 + sigmas**2)
    found = MSMA(levels=4, sigma_max=1.0, sigma_min=0.1).statistics(images, NETWORK)
    torch.testing.assert_close(found.float(), expected)


def path_of(images: torch.Tensor, *, levels: int) -> np.ndarray:
    """Noise estimates along DDIM run forward, float64 (levels, B, pixels)."""
    x, noise = images.flatten(1).double().numpy(), []
    sigmas = np.geomspace(0.05, 5.0, levels)
    for k, sigma in enumerate(sigmas):
        noise.append(x * sigma / (STD**2 + sigma**2))
        if k + 1 < levels:
            x = x + (sigmas[k + 1] - sigma) * noise[-1]
    return np.array(noise)


def test_diffpath_sums_powers_of_the_path_and_of_its_rate_of_change():
    images = slices(3) + 0.1
    noise = path_of(images, levels=6)
    change = np.diff(noise, axis=0) * 5
    six = np.stack([(v**p).sum(axis=(0, 2)) for v in (noise, change) for p in (1, 2, 3)], axis=1)
    options = {"levels": 6, "sigma_max": 5.0, "sigma_min": 0.05}
    np.testing.assert_allclose(DiffPath(dimensions=6, **options).statistics(images, NETWORK), six, rtol=1e-3)
    one = DiffPath(dimensions=1, **options).statistics(images, NETWORK)
    np.testing.assert_allclose(one, np.sqrt(six[:, 4:5]), rtol=1e-3)


@pytest.mark.parametrize("name", ["msma", "diffpath_1d", "diffpath_6d"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_slices_too_smooth_and_too_rough_are_both_unlikely(name, factor):
    method = ready(name)
    usual, unusual = method(slices(10, seed=5), NETWORK), method(slices(10, seed=6, std=factor * STD), NETWORK)
    assert float(unusual.min()) > float(usual.max())


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match="dimensions, levels: got 2 and 10"):
        DiffPath(dimensions=2)
