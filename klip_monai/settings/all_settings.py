"""All settings of an inferer, together and by their plain names."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

from klip_monai.physics import GaussianNoise, Identity, LinearOperator
from klip_monai.settings.density_reading import DensityReading
from klip_monai.settings.estimation import Estimation
from klip_monai.settings.measured import Measured
from klip_monai.settings.sampling import Sampling
from klip_monai.settings.twins import Twins


class InfererSettings(NamedTuple):
    """All settings of an inferer."""

    measured: Measured
    sampling: Sampling
    estimation: Estimation
    reading: DensityReading
    twins: Twins

    @classmethod
    def of(cls, operator: LinearOperator, **named: Any) -> InfererSettings:
        """Settings by their plain names; see :data:`SETTINGS`.

        Raises:
            TypeError: for a setting that there is not.
            ValueError: for an impossible one.
        """
        return cls(Measured(operator), Sampling(), Estimation(), DensityReading(), Twins()).changed(**named)

    def changed(self, **named: Any) -> InfererSettings:
        """The same with some settings changed, by their plain names; raises like :meth:`of`."""
        if "noise_std" in named:
            named = {"noise": GaussianNoise(named["noise_std"])} | {k: v for k, v in named.items() if k != "noise_std"}
        if unknown := [name for name in named if name not in GROUPS]:
            raise TypeError(f"{', '.join(unknown)}: there is no such setting, expected any of {', '.join(SETTINGS)}")
        groups = {}
        for group in {GROUPS[name] for name in named}:
            own = {name: value for name, value in named.items() if GROUPS[name] == group}
            groups[group] = replace(getattr(self, group), **own)
        return self._replace(**groups)

    def settled(self) -> InfererSettings:
        """With everything chosen that follows from the rest.

        Raises:
            ValueError: for settings that do not go together.
        """
        measured, sampling, estimation, reading, twins = self
        on_path = estimation.estimator == "trajectory" or twins.twins > 0
        alone = not on_path and isinstance(measured.operator, Identity)
        purpose = "of_paths" if on_path else "alone" if alone else "of_samples"
        sampling = sampling.settled(purpose)
        if sampling.sampler is None and sampling.passes < (1 if on_path else 0):
            raise ValueError(
                f"sampler_levels: got {sampling.passes}, expected at least 1, or 0 for renoised without twins"
            )
        if not sampling.sigma_min < twins.twin_sigma:
            raise ValueError(f"twin_sigma: got {twins.twin_sigma}, expected a level above {sampling.sigma_min}")
        if twins.twins and reading.sharp:
            raise ValueError(f"sharp: got it with {twins.twins} twins, expected one of the two")
        estimation = estimation.settled(purpose, sampling)
        assert estimation.edges  # refuses levels outside of the window
        return InfererSettings(measured, sampling, estimation, reading, twins)

    @property
    def passes(self) -> int:
        """NFE: network passes a slice, once settled."""
        run = self.sampling.samples * (self.sampling.passes + self.estimation.passes)
        return run + (self.twins.twins * (run + len(self.twins.sigmas(self.sampling))) if self.twins.twins else 0)

    def describe(self) -> dict[str, Any]:
        """All that a score depends on but for the seed, JSON-able, once settled."""
        described: dict[str, Any] = {}
        for group in self:
            described |= group.describe()
        if self.estimation.estimator != "renoised":
            described.pop("noise_px", None)  # a path's noise is its own
        return described


_KINDS = {"measured": Measured, "sampling": Sampling, "estimation": Estimation, "reading": DensityReading}
GROUPS = {one.name: group for group, kind in (_KINDS | {"twins": Twins}).items() for one in fields(kind)}
"""The value that each setting belongs to, by the setting's plain name."""

SETTINGS = tuple(name for name in (*GROUPS, "noise_std") if name != "operator")
"""Plain names of all settings but the operator; ``noise_std`` is white noise by its standard deviation."""
