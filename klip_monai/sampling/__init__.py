"""Posterior samplers. A sampler never knows what its steps are used for."""

from klip_monai.sampling.ancestral_dps import ddpm_dps
from klip_monai.sampling.predictor_corrector import predictor_corrector
from klip_monai.sampling.samplers import Randomness, posterior_sample, prior_sample, renoise, standard_normal
from klip_monai.sampling.step import Callback, ConjugateGradientPosterior, PosteriorDenoiser, Step

__all__ = [
    "Callback",
    "ConjugateGradientPosterior",
    "PosteriorDenoiser",
    "Randomness",
    "Step",
    "ddpm_dps",
    "posterior_sample",
    "predictor_corrector",
    "prior_sample",
    "renoise",
    "standard_normal",
]
