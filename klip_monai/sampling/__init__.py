"""Posterior samplers. A sampler never knows what its steps are used for."""

from klip_monai.sampling.ancestral_dps import ddpm_dps
from klip_monai.sampling.patch_langevin import DataEnergy, GaussianEnergy, NormEnergy, patch_langevin
from klip_monai.sampling.predictor_corrector import predictor_corrector
from klip_monai.sampling.sampler_settings import (
    SAMPLERS,
    AncestralDPS,
    PatchLangevin,
    PosteriorSampler,
    PredictorCorrector,
)
from klip_monai.sampling.samplers import posterior_sample, prior_sample, renoise
from klip_monai.sampling.step import Callback, ConjugateGradientPosterior, PosteriorDenoiser, Step, level_intervals

__all__ = [
    "SAMPLERS",
    "AncestralDPS",
    "Callback",
    "ConjugateGradientPosterior",
    "DataEnergy",
    "GaussianEnergy",
    "NormEnergy",
    "PatchLangevin",
    "PosteriorDenoiser",
    "PosteriorSampler",
    "PredictorCorrector",
    "Step",
    "ddpm_dps",
    "level_intervals",
    "patch_langevin",
    "posterior_sample",
    "predictor_corrector",
    "prior_sample",
    "renoise",
]
