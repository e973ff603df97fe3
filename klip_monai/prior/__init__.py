"""The diffusion prior: denoisers, noise levels, safe weights."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from klip_monai.prior.denoiser import Denoiser, GaussianDenoiser, UNetDenoiser
from klip_monai.prior.foreign.diffusers_unet import DiffusersUNet
from klip_monai.prior.foreign.edm_denoiser import EDMDenoiser
from klip_monai.prior.foreign.song_unet import SongUNet
from klip_monai.prior.patches import PatchDenoiser, PatchGrid, PatchNetwork
from klip_monai.prior.sigmas import log_sigmas
from klip_monai.prior.value_range import ValueRangeDenoiser
from klip_monai.prior.variance_preserving import VariancePreservingDenoiser
from klip_monai.prior.weights import load_weights, save_weights, weights_hash

__all__ = [
    "Denoiser",
    "DiffusersUNet",
    "EDMDenoiser",
    "GaussianDenoiser",
    "PatchDenoiser",
    "PatchGrid",
    "PatchNetwork",
    "SongUNet",
    "UNetDenoiser",
    "ValueRangeDenoiser",
    "VariancePreservingDenoiser",
    "load_weights",
    "log_sigmas",
    "save_weights",
    "weights_hash",
]

_MOVED = {
    "BatchAugment",
    "BestWeights",
    "DenoisingLoss",
    "EDMLoss",
    "EDMPrepareBatch",
    "ExponentialMovingAverage",
    "FixedNoisePrepareBatch",
    "GradientClip",
    "LearningRate",
    "PatchPrepareBatch",
    "ProgressReport",
    "SeededBatchSampler",
    "TimeBudget",
    "TrainingCheckpoint",
    "ValidationReport",
}


def __getattr__(name: str) -> Any:
    """What configurations of earlier builds look for here, and training has now; with a warning."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = f"klip_monai.prior.{name} is klip_monai.training.{name} now; the old name is understood in this version only"
    warnings.warn(text, FutureWarning, stacklevel=2)
    return getattr(import_module("klip_monai.training"), name)
