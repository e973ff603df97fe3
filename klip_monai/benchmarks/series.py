"""The phantom series that are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from klip_monai.phantom import axial_affine, random_anatomy, render

SEED = 800_000
"""Patient of the series; used nowhere else."""


@dataclass(frozen=True)
class Series:
    """A healthy phantom in ``side`` x ``side`` pixels over 400 mm, and so many ``slices``, ``slice_mm`` apart."""

    side: int = 512
    slices: int = 300
    slice_mm: float = 0.8

    def render(self) -> MetaTensor:
        """Its voxels, float32 HU (1, X, Y, Z)."""
        shape, pixel = (self.side, self.side, self.slices), 400 / self.side
        affine = axial_affine(shape, spacing=(pixel, pixel, self.slice_mm), centre=(0, 0, 20))
        return render(random_anatomy(SEED), affine, shape=shape).image

    def write(self, path: Path) -> Path:
        """Write it as int16 NIfTI."""
        image = self.render()
        values = np.clip(np.round(image[0].numpy()), -1024, 3071).astype(np.int16)
        nib.save(nib.Nifti1Image(values, image.affine.numpy()), path)
        return path
