"""Posterior samplers. A sampler never knows what its steps are used for."""

from klip_monai.sampling.patch_langevin import DataEnergy, GaussianEnergy, NormEnergy, patch_langevin
from klip_monai.sampling.samplers import posterior_sample, prior_sample, renoise, standard_normal
from klip_monai.sampling.step import Callback, ConjugateGradientPosterior, PosteriorDenoiser, Step, level_intervals

__all__ = [
    "Callback",
    "ConjugateGradientPosterior",
    "DataEnergy",
    "GaussianEnergy",
    "NormEnergy",
    "PosteriorDenoiser",
    "Step",
    "level_intervals",
    "patch_langevin",
    "posterior_sample",
    "prior_sample",
    "renoise",
    "standard_normal",
]
