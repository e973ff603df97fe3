"""Training: sets of standard slices of healthy scans or pictures, loss and loop, and bundles of priors."""

from klip_monai.training.augment import BatchAugment
from klip_monai.training.batches import SeededBatchSampler
from klip_monai.training.checkpoint import TrainingCheckpoint
from klip_monai.training.handlers import (
    ExponentialMovingAverage,
    GradientClip,
    LearningRate,
    ProgressReport,
    TimeBudget,
)
from klip_monai.training.import_weights import import_weights
from klip_monai.training.loss import EDMLoss, EDMPrepareBatch, FixedNoisePrepareBatch
from klip_monai.training.new_bundle import new_bundle
from klip_monai.training.patch_batches import PatchPrepareBatch
from klip_monai.training.resident_slices import ResidentSlices
from klip_monai.training.slice_set import SliceGroup, SliceSet, read_manifest, write_slice_set
from klip_monai.training.sources import Group, fill_clipped, picture_groups, read_picture, scan_groups
from klip_monai.training.validation import BestWeights, DenoisingLoss, ValidationReport

__all__ = [
    "BatchAugment",
    "BestWeights",
    "DenoisingLoss",
    "EDMLoss",
    "EDMPrepareBatch",
    "ExponentialMovingAverage",
    "FixedNoisePrepareBatch",
    "GradientClip",
    "Group",
    "LearningRate",
    "PatchPrepareBatch",
    "ProgressReport",
    "ResidentSlices",
    "SeededBatchSampler",
    "SliceGroup",
    "SliceSet",
    "TimeBudget",
    "TrainingCheckpoint",
    "ValidationReport",
    "fill_clipped",
    "import_weights",
    "new_bundle",
    "picture_groups",
    "read_manifest",
    "read_picture",
    "scan_groups",
    "write_slice_set",
]
