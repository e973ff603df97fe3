"""The diffusion prior: denoisers, noise levels, safe weights, and training."""

from klip_monai.prior.augment import BatchAugment
from klip_monai.prior.batches import SeededBatchSampler
from klip_monai.prior.checkpoint import TrainingCheckpoint
from klip_monai.prior.denoiser import Denoiser, GaussianDenoiser, UNetDenoiser
from klip_monai.prior.diffusers_unet import DiffusersUNet
from klip_monai.prior.edm_denoiser import EDMDenoiser
from klip_monai.prior.handlers import (
    ExponentialMovingAverage,
    GradientClip,
    LearningRate,
    ProgressReport,
    TimeBudget,
)
from klip_monai.prior.loss import EDMLoss, EDMPrepareBatch, FixedNoisePrepareBatch
from klip_monai.prior.patch_batches import PatchPrepareBatch
from klip_monai.prior.patches import PatchDenoiser, PatchGrid, PatchNetwork
from klip_monai.prior.sigmas import log_sigmas
from klip_monai.prior.song_unet import SongUNet
from klip_monai.prior.validation import BestWeights, DenoisingLoss, ValidationReport
from klip_monai.prior.value_range import ValueRangeDenoiser
from klip_monai.prior.variance_preserving import VariancePreservingDenoiser
from klip_monai.prior.weights import load_weights, save_weights, weights_hash

__all__ = [
    "BatchAugment",
    "BestWeights",
    "Denoiser",
    "DenoisingLoss",
    "DiffusersUNet",
    "EDMDenoiser",
    "EDMLoss",
    "EDMPrepareBatch",
    "ExponentialMovingAverage",
    "FixedNoisePrepareBatch",
    "GaussianDenoiser",
    "GradientClip",
    "LearningRate",
    "PatchDenoiser",
    "PatchGrid",
    "PatchNetwork",
    "PatchPrepareBatch",
    "ProgressReport",
    "SeededBatchSampler",
    "SongUNet",
    "TimeBudget",
    "TrainingCheckpoint",
    "UNetDenoiser",
    "ValidationReport",
    "ValueRangeDenoiser",
    "VariancePreservingDenoiser",
    "load_weights",
    "log_sigmas",
    "save_weights",
    "weights_hash",
]
