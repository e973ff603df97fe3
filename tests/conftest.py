"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klip_monai.prior import UNetDenoiser

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: two processes would fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))

import pytest
from orthanc_server import orthanc, orthanc_server  # noqa: F401  fixtures

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of development data beside the checkout; tests that need it skip without."""
    folder = Path(os.environ.get("KLIP_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"development data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def small_ct(tmp_path_factory) -> Path:
    """A healthy phantom scan of 4 slices as NIfTI, oblique."""
    import nibabel as nib
    import numpy as np
    from monai.data import MetaTensor
    from scipy.spatial.transform import Rotation

    from klip_monai.phantom import axial_affine, random_anatomy, render

    shape = (160, 150, 4)
    turn = Rotation.from_euler("xyz", (4, -3, 5), degrees=True).as_matrix()
    affine = axial_affine(shape, spacing=(2.3, 2.5, 6.0), centre=(12.0, -20.0, 30.0), rotation=turn)
    image: MetaTensor = render(random_anatomy(910_000), affine, shape=shape).image
    nifti = nib.Nifti1Image(np.round(image[0].numpy()).astype(np.int16), affine)
    nifti.set_sform(affine, 1)
    nifti.set_qform(affine, 1)
    path = tmp_path_factory.mktemp("small_ct") / "small.nii.gz"
    nib.save(nifti, path)
    return path


@pytest.fixture
def tiny_denoiser() -> Callable[..., UNetDenoiser]:
    """Makes the smallest denoiser, always with the same weights."""
    import torch

    from klip_monai.prior import UNetDenoiser

    def make(**options: Any) -> UNetDenoiser:
        torch.manual_seed(0)
        return UNetDenoiser([16, 16], [8, 16], num_head_channels=8, norm_num_groups=4, **options)

    return make
