"""The number of slices that a file claims is that which another library wrote."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from klip_monai.io.files.volume_head import claimed_slices

SHAPE = (5, 7, 300)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_of_either_version_and_byte_order(tmp_path: Path, suffix: str, kind: type, order: str) -> None:
    header = kind.header_class(endianness=order)
    path = tmp_path / f"a{suffix}"
    nib.save(kind(np.zeros(SHAPE, np.int16), np.eye(4), header), path)
    assert claimed_slices(path.read_bytes()[:32768]) == 300


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_nrrd_and_meta_image(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16)), str(path), useCompression=packed)
    assert claimed_slices(path.read_bytes()) == 300


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b" + bytes(600),
        b"NRRD0004\nsizes: 3 4\n",
        b"NRRD0004\nsizes: 3 4 99999999999999999999\n",
        b"NDims = 3\nDimSize = a b c\n",
        (348).to_bytes(4, "little"),
        (348).to_bytes(4, "little") + b"\xff" * 400,
        bytes(1000),
    ],
)
def test_what_makes_no_sense_claims_nothing(start: bytes) -> None:
    assert claimed_slices(start) == 0
