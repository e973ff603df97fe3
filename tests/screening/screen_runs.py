"""Small archives to screen, and what a screening left, without what differs from run to run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from klip_monai.phantom import axial_affine, random_anatomy, render
from klip_monai.screening.ledger import FILE_NAME, Ledger

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def tiny_scan(seed: int) -> nib.Nifti1Image:
    """A phantom of 100 x 100 x 3 voxels."""
    shape = (100, 100, 3)
    affine = axial_affine(shape, spacing=(4.0, 4.0, 8.0), centre=(0.0, 0.0, 20.0))
    image = render(random_anatomy(910_100 + seed), affine, shape=shape).image
    return nib.Nifti1Image(np.round(image[0].numpy()).astype(np.int16), affine)


def klip_screen(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "klip_monai.cli", "screen", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
