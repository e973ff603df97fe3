"""From steps of a sampler to a KL density, a heat map, labels, candidates and p-values, whichever sampler ran."""

from klip_monai.scoring.candidates import Candidate, find_candidates, what_p_and_q_mean
from klip_monai.scoring.context import ContextNull, HealthyScan, with_sharp
from klip_monai.scoring.density import KLAccumulator, Window, block_scores, smooth
from klip_monai.scoring.expected import (
    CONTRAST_MM,
    ContrastSums,
    ExpectedDensity,
    contrast_px,
    leave_one_out,
    local_contrast,
)
from klip_monai.scoring.labels import LABEL_NAMES, MIN_ML, islands, threshold_heatmap
from klip_monai.scoring.moves import AlongScan, Moves, SliceMoves
from klip_monai.scoring.reference import IDReference, Places, settings_key
from klip_monai.scoring.spectrum import DensitySpectrum
from klip_monai.scoring.twins import over_twins, twin_p_values

__all__ = [
    "CONTRAST_MM",
    "LABEL_NAMES",
    "MIN_ML",
    "AlongScan",
    "Candidate",
    "ContextNull",
    "ContrastSums",
    "DensitySpectrum",
    "ExpectedDensity",
    "HealthyScan",
    "IDReference",
    "KLAccumulator",
    "Moves",
    "Places",
    "SliceMoves",
    "Window",
    "block_scores",
    "contrast_px",
    "find_candidates",
    "islands",
    "leave_one_out",
    "local_contrast",
    "over_twins",
    "settings_key",
    "smooth",
    "threshold_heatmap",
    "twin_p_values",
    "what_p_and_q_mean",
    "with_sharp",
]
