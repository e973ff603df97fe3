"""From steps of a sampler to a KL density, a heat map, labels and p-values. Scoring never knows which sampler ran."""

from klip_monai.scoring.density import KLAccumulator, Window, block_scores, smooth
from klip_monai.scoring.expected import ContrastSums, ExpectedDensity, leave_one_out, local_contrast
from klip_monai.scoring.labels import LABEL_NAMES, islands, threshold_heatmap
from klip_monai.scoring.reference import CONTRAST_PX, IDReference, settings_key

__all__ = [
    "CONTRAST_PX",
    "LABEL_NAMES",
    "ContrastSums",
    "ExpectedDensity",
    "IDReference",
    "KLAccumulator",
    "Window",
    "block_scores",
    "islands",
    "leave_one_out",
    "local_contrast",
    "settings_key",
    "smooth",
    "threshold_heatmap",
]
