"""What is measured: a bundle on a device, and slices for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from klip_monai.benchmarks.processes import Release
from klip_monai.benchmarks.series import Series
from klip_monai.bundle import BundleInfo, open_workflow
from klip_monai.inferer import KLIPInferer
from klip_monai.physics.factory import OPERATORS
from klip_monai.prior import Denoiser
from klip_monai.standard import StandardSlices, standard_slices

AT_A_TIME = 4
"""Slices of a batch: as many as the inferer gives a core of a CPU at a time."""

SPARSE_VIEW: dict[str, Any] = {"operator#name": "sparse_view", "operator#views": 24, "operator#angle_range": 180.0}
"""A measurement that leaves much open, beside the bundle's own: settings of a bundle."""

_A_FEW, _LARGE = Series(slices=AT_A_TIME, slice_mm=5.0), Series()
_MARGIN_PX = 8  # for bundles that let the network see whole slices


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        bundle: whose network and settings.
        device: where.
        tries: of what takes milliseconds; the least counts.
        repeats: the same of what takes seconds.
        slices: that the inferer is given; None: enough for all threads of a CPU, or for a batch of a GPU.
        scan: phantom that they are taken from.
        series: phantom that is scored from end to end.
        path: series of one's own to score instead.
        against: another release to score with in turn.
        threads: of torch in other processes; None leaves it to them.
    """

    bundle: BundleInfo
    device: torch.device
    tries: int = 5
    repeats: int = 1
    slices: int | None = None
    scan: Series = _A_FEW
    series: Series = _LARGE
    path: Path | None = None
    against: Release | None = None
    threads: int | None = None

    def parser(self, **overrides: Any) -> ConfigParser:
        """The bundle's inference configuration, with values by config id."""
        device = f"$torch.device('{self.device.type}')"
        return open_workflow(self.bundle, "inference.json", kind="inference", device=device, **overrides).parser

    @cached_property
    def _own(self) -> ConfigParser:
        return self.parser()

    @cached_property
    def network(self) -> Denoiser:
        """The prior, in the precision that is taken here."""
        network: Denoiser = self._own.get_parsed_content("network")
        return network

    @cached_property
    def inferer(self) -> KLIPInferer:
        """The bundle's."""
        inferer: KLIPInferer = self._own.get_parsed_content("inferer")
        return inferer

    @cached_property
    def presets(self) -> tuple[str | None, ...]:
        """Names of the bundle's presets; None stands for its only settings."""
        return tuple(self._own.get("presets", {})) or (None,)

    @cached_property
    def measurements(self) -> dict[str, dict[str, Any]]:
        """Settings of the bundle's own measurement (none) and of :data:`SPARSE_VIEW`, by what to call them."""
        return {_called(self.parser(**settings)): settings for settings in (SPARSE_VIEW, {})}

    @property
    def margin_px(self) -> int:
        """Air around the body that the network sees, or would see."""
        margin = self.inferer.sampling.body_margin_px
        return _MARGIN_PX if margin is None else margin

    @cached_property
    def volume(self) -> MetaTensor:
        """A few slices of a scan, float32 HU (1, X, Y, Z)."""
        return self.scan.render()

    @cached_property
    def standard(self) -> StandardSlices:
        """The same on the bundle's grid."""
        return standard_slices(self.volume, self._own.get_parsed_content("grid"))

    @cached_property
    def images(self) -> torch.Tensor:
        """Standard slices for the inferer, over and over, float32 (B, 1, H, W)."""
        on_cpu = self.device.type == "cpu"
        number = self.slices or (AT_A_TIME * torch.get_num_threads() if on_cpu else self.inferer.batch_size)
        images = self.standard.images
        return images[torch.arange(number) % len(images)].to(self.device)


def _called(parser: ConfigParser) -> str:
    name = str(parser["operator#name"])
    return f"{name} {parser['operator#views']} views" if "views" in OPERATORS.get(name, {}) else name
