"""From steps of a sampler to a KL density, a heat map, labels and p-values. Scoring never knows which sampler ran."""

from klip_monai.scoring.density import KLAccumulator, Window, block_scores, smooth
from klip_monai.scoring.labels import LABEL_NAMES, islands, threshold_heatmap
from klip_monai.scoring.reference import IDReference, settings_key

__all__ = [
    "LABEL_NAMES",
    "IDReference",
    "KLAccumulator",
    "Window",
    "block_scores",
    "islands",
    "settings_key",
    "smooth",
    "threshold_heatmap",
]
