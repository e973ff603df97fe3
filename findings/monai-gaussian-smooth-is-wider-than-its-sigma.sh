#!/usr/bin/env bash
# MONAI 1.6.1, monai.transforms.GaussianSmooth: the kernel that a sigma gives is wider than that sigma.
#
# By default (approx="erf") each weight is the Gaussian's integral over a pixel, not its value there: smoothing with the Gaussian and
# then with a box of one pixel, so the standard deviation that comes out is about sqrt(sigma^2 + 1/12). SciPy's gaussian_filter
# samples the Gaussian, and so does MONAI with approx="sampled". Standard deviation of a single bright voxel once smoothed, in pixels:
# sigma 0.5: 0.570 by MONAI's default, 0.464 by SciPy (23 % apart); sigma 1: 1.04 and 1.00; sigma 2: 2.02 and 2.00. So "a smoothing of
# 1 mm" on voxels of 2 mm differs between pipelines that use the one and the other.
#
# Seen with: Python 3.11, monai 1.6.1, torch 2.13.0, scipy 1.16.3, numpy 2.3.5. The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "torch==2.13.0" "monai==1.6.1" "scipy==1.16.3" "numpy==2.3.5"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import torch
from monai.transforms import GaussianSmooth
from scipy.ndimage import gaussian_filter


def width(profile):
    """Standard deviation of a profile, in pixels."""
    at = np.arange(len(profile)) - len(profile) // 2
    return float(np.sqrt((profile * at**2).sum() / profile.sum()))


volume = torch.zeros(1, 41, 41, 41)
volume[0, 20, 20, 20] = 1.0
for sigma in (0.5, 1.0, 2.0):
    widths = {
        "MONAI, default": width(np.asarray(GaussianSmooth(sigma)(volume))[0].sum(axis=(1, 2))),
        "MONAI, sampled": width(np.asarray(GaussianSmooth(sigma, approx="sampled")(volume))[0].sum(axis=(1, 2))),
        "SciPy": width(gaussian_filter(volume[0].numpy(), sigma).sum(axis=(1, 2))),
    }
    print(f"sigma {sigma}:", ", ".join(f"{name} {value:.3f}" for name, value in widths.items()))
    assert abs(widths["MONAI, default"] - np.sqrt(sigma**2 + 1 / 12)) < 0.01, "the default is no longer wider"
    assert abs(widths["SciPy"] - {0.5: 0.464, 1.0: 1.0, 2.0: 2.0}[sigma]) < 0.005, "SciPy has changed"
    assert abs(widths["MONAI, sampled"] - widths["SciPy"]) < 0.005, "the sampled kernel has changed"
PY
