"""A scan that is ready to be scored: read, named, brought to a prior's slices, with the region to look at."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from monai.data import MetaTensor

from klip_monai.errors import InputError
from klip_monai.io.dicom.files import ListedFiles
from klip_monai.io.names import case_name
from klip_monai.io.read import read_volume, volume_in_memory
from klip_monai.scan.region import read_region
from klip_monai.standard import PriorGrid, StandardSlices, slice_distance, standard_slices

if TYPE_CHECKING:
    from klip_monai.io.masks.roi import Roi

    Source: TypeAlias = str | os.PathLike[str] | ListedFiles | torch.Tensor | np.ndarray
    """A DICOM folder or archive, a NIfTI, NRRD or MetaImage file, listed DICOM files, or a volume in memory."""


@dataclass(frozen=True)
class Reading:
    """How a scan is read.

    Attributes:
        series_uid: which series where there are several.
        repair: what to repair, see :func:`klip_monai.io.read.read_volume`.
        hu_window: (low, high) HU that an 8-bit picture shows, see there.
        keep_names: name the case after its folder or file, which may name the patient, and let the files of the case
            say whose scan it is.
    """

    series_uid: str | None = None
    repair: tuple[str, ...] = ()
    hu_window: Sequence[float] | None = None
    keep_names: bool = False

    def volume(self, source: Source) -> MetaTensor:
        """Read a scan, or check one that a host has read.

        Unlike MONAI's ``LoadImage`` this never mixes series and refuses what it cannot place exactly, see
        :func:`klip_monai.io.read.read_volume`.

        Returns:
            Float32 HU (1, X, Y, Z); the ``name`` in its meta, after which files are named, is a pseudonym (see
            :func:`klip_monai.io.names.case_name`) unless names are kept.

        Raises:
            InputError: for a scan that cannot be read.
        """
        if isinstance(source, torch.Tensor | np.ndarray):  # no slices are left to repair
            return volume_in_memory(source, series_uid=self.series_uid, hu_window=self.hu_window)
        if not source or not isinstance(source, str | os.PathLike | ListedFiles):
            raise InputError(f"scan: got {source!r:.80}, expected a folder, an archive, a file, or a volume in memory")
        path = Path(source) if isinstance(source, str) else source
        volume = read_volume(path, series_uid=self.series_uid, repair=self.repair, hu_window=self.hu_window)
        if not self.keep_names:
            volume.meta["name"] = case_name(volume)
        return volume


@dataclass(frozen=True)
class OpenedScan:
    """A scan and what a prior sees of it.

    Attributes:
        volume: float32 HU (1, X, Y, Z), see :meth:`Reading.volume`.
        slices: its standard slices, their body mask and the way back.
        region: bool (1, X, Y, Z), the part to look at, see :func:`klip_monai.scan.region.read_region`; None is all.
        region_slices: the region on the standard slices, bool (Z, 1, H, W).
        keep_names: whether files of the case may say whose scan it is.
        read_seconds: what reading took.
    """

    volume: MetaTensor
    slices: StandardSlices
    region: MetaTensor | None = None
    region_slices: torch.Tensor | None = None
    keep_names: bool = False
    read_seconds: float = 0.0

    @classmethod
    def read(
        cls,
        source: Source,
        grid: PriorGrid,
        *,
        reading: Reading,
        roi: Roi | str | Path | None = None,
        skin_px: float = 0.0,
    ) -> OpenedScan:
        """Read a scan and bring it to the slice format of a prior.

        Args:
            source: where it is, or a volume in memory.
            grid: the prior's slice format.
            reading: how it is read.
            roi: the region to look at, `FILE` or `FILE:LABELS`; None looks at all of it.
            skin_px: rim of the body that is not scored, pixels of the prior's grid.

        Raises:
            InputError: for a scan or a region that cannot be read, or that do not belong together.
        """
        start = time.perf_counter()
        volume = reading.volume(source)
        slices = standard_slices(volume, grid)
        region, on_slices = None, None
        if roi is not None:
            region, on_slices = read_region(roi, volume, slices, skin_px=skin_px, keep_names=reading.keep_names)
        return cls(volume, slices, region, on_slices, reading.keep_names, time.perf_counter() - start)

    @property
    def name(self) -> str:
        """Of the case."""
        return str(self.volume.meta["name"])

    @property
    def slice_mm(self) -> float | None:
        """Distance of the standard slices, mm; None if they do not lie straight above each other."""
        return slice_distance(self.slices.placement.affine)
