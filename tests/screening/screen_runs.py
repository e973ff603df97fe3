"""Small archives to screen."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.phantom import axial_affine, random_anatomy, render

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def tiny_scan(seed: int) -> nib.Nifti1Image:
    """A phantom of 100 x 100 x 3 voxels."""
    shape = (100, 100, 3)
    affine = axial_affine(shape, spacing=(4.0, 4.0, 8.0), centre=(0.0, 0.0, 20.0))
    image = render(random_anatomy(910_100 + seed), affine, shape=shape).image
    return nib.Nifti1Image(np.round(image[0].numpy()).astype(np.int16), affine)


def screen_command(archive: Path | str, output: Path, bundle: Path, *options: object) -> list[str]:
    command = [sys.executable, "-m", "klip_monai.cli", "screen", archive, "-o", output, "--bundle", bundle, *options]
    return [str(part) for part in command]


def screen(archive: Path, output: Path, bundle: Path, *options: object):
    """Run the command in this process."""
    return CliRunner().invoke(app, screen_command(archive, output, bundle, *options)[3:])
