"""The paper's samplers as values: cost, description, and what they run."""

from __future__ import annotations

import json

import pytest
import torch

from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.sampling import SAMPLERS, Step
from klip_monai.slice_generator import SliceGenerator

FEW = {
    "predictor_corrector": {"levels": 6, "corrector_steps": 2},
    "ancestral_dps": {"levels": 6},
    "patch_langevin": {"levels": 3, "steps": 2},
}


class Counted(torch.nn.Module):
    """A Gaussian denoiser that counts its passes, and those that are differentiated three times."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.passes += 3 if x.requires_grad else 1
        return GaussianDenoiser(std=0.5)(x, sigma)


@pytest.mark.parametrize("name", SAMPLERS)
def test_passes_are_those_that_are_made_and_all_steps_are_reported(name):
    sampler, denoiser, steps = SAMPLERS[name](sigma_max=2.0, **FEW[name]), Counted(), []
    y = torch.zeros(2, 1, 8, 8)
    generator = SliceGenerator(0, range(2))
    samples = sampler.sample(denoiser, Identity((8, 8)), y, y, generator=generator, callback=steps.append)
    assert samples.shape == y.shape
    assert denoiser.passes == sampler.passes
    assert all(isinstance(step, Step) for step in steps)
    assert steps[0].sigma == pytest.approx(2.0)
    assert steps[-1].sigma_next == pytest.approx(0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_descriptions_hold_every_setting_and_are_json_able(name):
    described = json.loads(json.dumps(SAMPLERS[name]().describe()))
    assert {"name", "levels", "sigma_max", "sigma_min"} <= described.keys()
    assert described != SAMPLERS[name](levels=7).describe()
