"""The rivals: other ways to find anomalies, most of them with the same diffusion prior as KLIP.

Each is a :class:`klip_monai.evaluation.method.Method`; those with a ``fit`` are
:class:`klip_monai.evaluation.method.Fitted` and learn from healthy slices. Methods that compare features of networks
trained on photographs (PatchCore, PaDiM, LPIPS) are left out: their weights would have to be fetched, and they would
not say which score makes the most of one prior, which is the question here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from klip_monai.evaluation.baselines.data_fit import DataFitResidual
from klip_monai.evaluation.baselines.denoising import DenoisingError, NegativeELBO
from klip_monai.evaluation.baselines.likelihood import ProbabilityFlowNLL
from klip_monai.evaluation.baselines.position import PositionZScore
from klip_monai.evaluation.baselines.reconstruction import DDPMOOD, AnoDDPM
from klip_monai.evaluation.baselines.score_statistics import MSMA, DiffPath
from klip_monai.evaluation.method import Method

BASELINES: Mapping[str, Callable[..., Method]] = MappingProxyType(
    {
        "denoising_error": DenoisingError,
        "negative_elbo": NegativeELBO,
        "pf_ode_nll": ProbabilityFlowNLL,
        "msma": MSMA,
        "diffpath_1d": partial(DiffPath, dimensions=1),
        "diffpath_6d": partial(DiffPath, dimensions=6),
        "ddpm_ood": DDPMOOD,
        "anoddpm": AnoDDPM,
        "data_fit_residual": DataFitResidual,
        "position_z_score": PositionZScore,
    }
)
"""Makers of the methods by name. All settings are keyword-only and have defaults, but for the operator of one."""

__all__ = [
    "BASELINES",
    "DDPMOOD",
    "MSMA",
    "AnoDDPM",
    "DataFitResidual",
    "DenoisingError",
    "DiffPath",
    "NegativeELBO",
    "PositionZScore",
    "ProbabilityFlowNLL",
]
