from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from ct_files import sample_hu, write_series

from klip_monai.io import read_volume
from klip_monai.io.index import list_series
from klip_monai.io.names import case_name, fingerprint, pseudonym, sinogram_name
from klip_monai.screening.discovery import ArchiveIndex

AFFINE = np.array([[-2.0, 0, 0, 31], [0, -2.0, 0, 17], [0, 0, 3.0, -9], [0, 0, 0, 1.0]])


def test_dicom_case_is_named_after_its_series_uid_wherever_it_lies(tmp_path: Path) -> None:
    uid = write_series(tmp_path / "Mueller^Jane 1960" / "CT", sample_hu(5))
    expected = "ct-" + hashlib.sha256(uid.encode()).hexdigest()[:8]
    assert case_name(read_volume(tmp_path / "Mueller^Jane 1960")) == expected == pseudonym(uid)
    assert pseudonym(f"{uid}#2") == f"{expected}.2"


def test_file_has_one_name_in_inspect_score_and_screen_whatever_it_is_called(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", sample_hu(5))
    volume = read_volume(tmp_path / "dicom")
    values, affine = volume[0].numpy(), np.asarray(volume.affine)
    (tmp_path / "files").mkdir()
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), tmp_path / "files" / "Jane.nii.gz")
    image = SimpleITK.ReadImage(str(tmp_path / "files" / "Jane.nii.gz"))
    for name in ("other.nrrd", "detached.nhdr", "meta.mha"):
        SimpleITK.WriteImage(image, str(tmp_path / "files" / name))
    shutil.copy(tmp_path / "files" / "Jane.nii.gz", tmp_path / "Mary.nii.gz")
    with ArchiveIndex(tmp_path / "index.sqlite") as index:
        index.update([tmp_path / "files"])
        screened = {Path(str(found.files)).name: found.name for found in index.series()}
    assert len(screened) == 4
    for name, expected in screened.items():
        path = tmp_path / "files" / name
        assert case_name(read_volume(path)) == expected
        assert list_series(path)[0].name == expected
        assert re.fullmatch(r"ct-[0-9a-f]{8}", expected)
    assert len(set(screened.values())) == 4
    assert case_name(read_volume(tmp_path / "Mary.nii.gz")) == screened["Jane.nii.gz"]


@pytest.mark.parametrize("change", ["voxel", "place", "shape"])
def test_another_scan_has_another_name(change: str) -> None:
    values, affine = sample_hu(5).transpose(2, 1, 0).astype(np.float32), AFFINE.copy()
    before = fingerprint(values, affine)
    assert before == fingerprint(np.asfortranarray(values + 0.2), affine + 1e-5)
    if change == "voxel":
        values[3, 2, 1] += 1
    elif change == "place":
        affine[2, 3] += 0.1
    else:
        values = values[:, :, :-1]
    assert fingerprint(values, affine) != before


def test_sinograms_are_named_after_their_values() -> None:
    values = np.linspace(0, 3, 12, dtype=np.float32).reshape(3, 4)
    assert sinogram_name(values) == sinogram_name(np.asfortranarray(values))
    assert sinogram_name(values) != sinogram_name(values + 1e-3)
    assert sinogram_name(values) != sinogram_name(values.reshape(4, 3))
