"""The diffusion prior: denoisers, noise levels, safe weights, and training."""

from klip_monai.prior.augment import BatchAugment
from klip_monai.prior.batches import SeededBatchSampler
from klip_monai.prior.checkpoint import TrainingCheckpoint
from klip_monai.prior.denoiser import Denoiser, GaussianDenoiser, UNetDenoiser
from klip_monai.prior.handlers import (
    ExponentialMovingAverage,
    GradientClip,
    LearningRate,
    ProgressReport,
    TimeBudget,
)
from klip_monai.prior.loss import EDMLoss, EDMPrepareBatch, FixedNoisePrepareBatch
from klip_monai.prior.sigmas import log_sigmas
from klip_monai.prior.validation import DenoisingLoss, ValidationReport
from klip_monai.prior.variance_preserving import VariancePreservingDenoiser
from klip_monai.prior.weights import load_weights, save_weights, weights_hash

__all__ = [
    "BatchAugment",
    "Denoiser",
    "DenoisingLoss",
    "EDMLoss",
    "EDMPrepareBatch",
    "ExponentialMovingAverage",
    "FixedNoisePrepareBatch",
    "GaussianDenoiser",
    "GradientClip",
    "LearningRate",
    "ProgressReport",
    "SeededBatchSampler",
    "TimeBudget",
    "TrainingCheckpoint",
    "UNetDenoiser",
    "ValidationReport",
    "VariancePreservingDenoiser",
    "load_weights",
    "log_sigmas",
    "save_weights",
    "weights_hash",
]
