"""Linear measurement operators on slices: `A`, `A_adjoint`, `A_dagger`, scaled to unit spectral norm.

Importing this package does not import astra; building a `Tomography` does.
"""

from __future__ import annotations

from klip_monai.physics.attenuation import MU_WATER, AttenuationScale
from klip_monai.physics.factory import make_operator
from klip_monai.physics.finer_grid import FinerGrid
from klip_monai.physics.geometry import FanBeam, ParallelBeam
from klip_monai.physics.image_space import GaussianBlur, Inpainting
from klip_monai.physics.noise import GaussianNoise, Measurement, Noise, PoissonNoise
from klip_monai.physics.operator import Identity, LinearOperator
from klip_monai.physics.solvers import bounded_least_squares, conjugate_gradient, spectral_norm
from klip_monai.physics.tomography import Tomography

__all__ = [
    "MU_WATER",
    "AttenuationScale",
    "FanBeam",
    "FinerGrid",
    "GaussianBlur",
    "GaussianNoise",
    "Identity",
    "Inpainting",
    "LinearOperator",
    "Measurement",
    "Noise",
    "ParallelBeam",
    "PoissonNoise",
    "Tomography",
    "bounded_least_squares",
    "conjugate_gradient",
    "make_operator",
    "spectral_norm",
]
