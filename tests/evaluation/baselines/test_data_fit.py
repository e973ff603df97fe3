"""The residual of a posterior sample, back-projected."""

from __future__ import annotations

import pytest
import torch
from white_noise import NETWORK, SHAPE, STD, slices

from klip_monai.evaluation.baselines import DataFitResidual
from klip_monai.physics import Identity, ParallelBeam, Tomography


def test_the_identity_leaves_what_the_prior_shrinks_away():
    # Far down the levels the sample is the posterior mean of the last state; noise as strong as the prior halves y.
    images, noise = slices(1).sign(), STD
    method = DataFitResidual(operator=Identity(SHAPE), noise_std=noise, data_std=STD, churn=0.0, sampler_levels=40)
    found = method(images, NETWORK)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.15)


def test_a_precise_measurement_is_explained_and_an_imprecise_one_is_not():
    operator = Tomography(ParallelBeam(image_shape=SHAPE, pixel_mm=1.0, views=8))
    images = slices(2, std=2 * STD)
    precise, imprecise = (
        DataFitResidual(operator=operator, noise_std=noise, data_std=STD, sampler_levels=12)(images, NETWORK)
        for noise in (0.001, 0.3)
    )
    assert float(precise.mean()) < 0.2 * float(imprecise.mean())
    assert bool((precise >= 0).all())
    assert torch.equal(
        precise, DataFitResidual(operator=operator, noise_std=0.001, data_std=STD, sampler_levels=12)(images, NETWORK)
    )
