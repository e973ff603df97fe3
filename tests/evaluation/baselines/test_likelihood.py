"""The likelihood along the probability-flow ODE is that of the noised prior."""

from __future__ import annotations

import pytest
import torch
from white_noise import NETWORK, SHAPE, STD, slices

from klip_monai.errors import InputError
from klip_monai.evaluation.baselines import ProbabilityFlowNLL

LOW = 0.02


def exact(images: torch.Tensor) -> torch.Tensor:
    noised = torch.distributions.Normal(0.0, (STD**2 + LOW**2) ** 0.5)
    return -noised.log_prob(images).sum(dim=(1, 2, 3))


@pytest.mark.parametrize(("solver", "levels", "nats"), [("heun", 25, 20), ("heun", 100, 1.3), ("euler", 400, 6)])
def test_is_exact_for_a_gaussian_prior(solver, levels, nats):
    images = torch.cat([slices(2), slices(2, std=2 * STD)])
    found = ProbabilityFlowNLL(solver=solver, levels=levels, sigma_min=LOW, data_std=STD)(images, NETWORK)
    assert float((found - exact(images)).abs().max()) < nats


def test_halving_the_steps_of_heun_divides_the_error_by_four():
    images = slices(1)
    errors = [
        float((ProbabilityFlowNLL(levels=n, sigma_min=LOW, data_std=STD)(images, NETWORK) - exact(images)).abs())
        for n in (13, 25)
    ]
    assert 3 < errors[0] / errors[1] < 6


def test_the_trace_is_estimated_without_bias_where_pixels_depend_on_each_other():
    # D = x K: the slice 0 stays 0 and the trace is that of K.
    n = SHAPE[0] * SHAPE[1]
    mixing = 0.5 * torch.eye(n) + 0.5 * torch.rand(n, n, generator=torch.Generator().manual_seed(3)) / n**0.5

    def network(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (x.flatten(1) @ mixing).reshape(x.shape)

    images, found = torch.zeros(1, 1, *SHAPE), []
    options = {"levels": 2, "solver": "euler", "sigma_min": 1.0, "sigma_max": 2.0, "data_std": 1.0}
    for probes in (1, 64):
        seeds = range(12 if probes == 1 else 2)
        found.append([float(ProbabilityFlowNLL(probes=probes, seed=s, **options)(images, network)) for s in seeds])
    spread = max(found[0]) - min(found[0])
    assert spread > 1
    end = 0.5 * n * torch.log(torch.tensor(2 * torch.pi * 5.0))
    expected = float(end - torch.log(torch.tensor(2.0)) * (n - mixing.trace()))
    assert sum(found[1]) / 2 == pytest.approx(expected, abs=0.3 * spread)


def test_passes_count_a_backward_pass_as_two():
    assert ProbabilityFlowNLL(levels=11, solver="euler").passes == 10 * 3
    assert ProbabilityFlowNLL(levels=11, solver="heun", probes=2).passes == 20 * 5


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="solver: got 'rk45', expected one of heun, euler"):
        ProbabilityFlowNLL(solver="rk45")
    with pytest.raises(InputError, match="levels, probes: got 1 and 1"):
        ProbabilityFlowNLL(levels=1)
