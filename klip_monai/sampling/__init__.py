"""Posterior samplers. A sampler never knows what its steps are used for."""

from klip_monai.sampling.samplers import Randomness, posterior_sample, prior_sample, renoise, standard_normal
from klip_monai.sampling.step import Callback, ConjugateGradientPosterior, PosteriorDenoiser, Step

__all__ = [
    "Callback",
    "ConjugateGradientPosterior",
    "PosteriorDenoiser",
    "Randomness",
    "Step",
    "posterior_sample",
    "prior_sample",
    "renoise",
    "standard_normal",
]
