"""What KLIP is run with, as frozen values: each is checked when it is made, and writes itself down."""

from klip_monai.settings.all_settings import GROUPS, SETTINGS, InfererSettings
from klip_monai.settings.density_reading import NULLS, DensityReading
from klip_monai.settings.estimation import ESTIMATORS, Estimation
from klip_monai.settings.levels import Levels
from klip_monai.settings.measured import Measured
from klip_monai.settings.sampling import Sampling
from klip_monai.settings.twins import Twins

__all__ = [
    "ESTIMATORS",
    "GROUPS",
    "NULLS",
    "SETTINGS",
    "DensityReading",
    "Estimation",
    "InfererSettings",
    "Levels",
    "Measured",
    "Sampling",
    "Twins",
]
