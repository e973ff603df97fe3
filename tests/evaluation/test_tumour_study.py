from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.evaluation import save_tumour_study
from klip_monai.evaluation.tumour_study import (
    LabelledScan,
    labelled_scans,
    measured,
    run_tumour_study,
)
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import Organ, random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.standard import PriorGrid
from klip_monai.transforms import KLIPScore

SPACING = (5.0, 2.0, 2.0)


def regions() -> dict[str, torch.Tensor]:
    """Ten slices; an organ in all of them and two lesions in it, one over slices 2 and 3, the other in slice 7."""
    body, organ, lesion = (torch.zeros(10, 40, 40, dtype=torch.bool) for _ in range(3))
    body[:, 4:36, 4:36] = True
    organ[:, 10:30, 10:22] = True
    lesion[2:4, 12:16, 12:16] = True
    lesion[7, 24:28, 14:18] = True
    return {"lesion": lesion, "organ": organ, "body": body}


def figures(heat: torch.Tensor):
    return measured(heat, **regions(), spacing_mm=SPACING, name="a", p_value=0.05)


def test_a_map_of_the_lesions_gets_full_marks():
    scan = figures(regions()["lesion"].float() + 0.01 * torch.rand(10, 40, 40))
    assert (scan.lesions, scan.lesion_slices, scan.slices) == (2, 3, 10)
    assert scan.in_body == scan.in_organ == scan.slice_level == scan.organ_slice_level == 1
    assert scan.average_precision == pytest.approx(1)
    assert scan.best_dice == pytest.approx(1)
    assert {lesion for _, lesion in scan.peaks if lesion} == {1, 2}


def test_a_random_map_gets_what_chance_gives():
    scan = figures(torch.rand(10, 40, 40, generator=torch.Generator().manual_seed(0)))
    assert scan.in_body == pytest.approx(0.5, abs=0.1)
    assert scan.average_precision == pytest.approx(scan.prevalence, abs=0.02)


def test_bright_tissue_outside_of_the_organ_counts_in_the_body_only():
    heat = regions()["lesion"].float()
    heat[:, 4:36, 28:36] = 2.0
    scan = figures(heat)
    assert scan.in_organ == 1
    assert scan.in_body < 0.8
    assert scan.slice_level == 0.5
    assert scan.organ_slice_level == 1


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    scan = random_scan(300_000, slices=6, slice_mm=(5.0, 6.0), lesion=True, radius_mm=(12, 14), contrast_hu=(60, 70))
    affine = np.asarray(scan.image.affine)
    nib.save(nib.Nifti1Image(np.round(scan.image[0].numpy()).astype(np.int16), affine), folder / "ct.nii.gz")
    labels = np.where(scan.lesions, 2, np.where(scan.organs == Organ.LIVER, 1, 0)).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    return LabelledScan(folder / "ct.nii.gz", folder / "labels.nii.gz", organ=(1, 2), lesion=(2,)), labels, affine


def test_a_labelled_scan_is_scored_on_its_own_grid(files):
    scan, labels, _ = files
    score = KLIPScore(
        GaussianDenoiser(std=0.5),
        KLIPInferer(Identity((64, 64)), window_levels=2, sampler_levels=2),
        grid=PriorGrid((64, 64), 6.0),
    )
    study = run_tumour_study(score, [scan])
    (only,) = study.scans
    assert only.slices == labels.shape[2]
    assert only.lesions == 1
    assert 0 < only.lesion_slices < only.slices
    assert only.p_value is None
    assert study.in_body.value == only.in_body
    assert only.peaks[0][0] <= only.scan_score


def test_the_report_has_a_line_for_each_scan_of_a_folder(files, tmp_path):
    scan, _, _ = files
    for path, name in ((scan.scan, "one_ct.nii.gz"), (scan.labels, "one_labels.nii.gz")):
        (tmp_path / name).write_bytes(path.read_bytes())
    scans = labelled_scans(tmp_path, organ=(1, 2), lesion=(2,))
    score = KLIPScore(
        GaussianDenoiser(std=0.5),
        KLIPInferer(Identity((64, 64)), window_levels=2, sampler_levels=2),
        grid=PriorGrid((64, 64), 6.0),
    )
    save_tumour_study(run_tumour_study(score, scans), tmp_path / "out", provenance={"bundle": "toy"})
    assert "| one_ct | " in (tmp_path / "out" / "tumour_study.md").read_text()
    assert json.loads((tmp_path / "out" / "tumour_study.json").read_text())["scans"][0]["lesions"] == 1


def test_a_folder_without_pairs_is_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"got no NAME_ct\.nii\.gz"):
        labelled_scans(tmp_path, organ=(1,), lesion=(2,))
    (tmp_path / "one_ct.nii.gz").write_bytes(files[0].scan.read_bytes())
    with pytest.raises(InputError, match=r"one_labels\.nii\.gz is missing"):
        labelled_scans(tmp_path, organ=(1,), lesion=(2,))


def test_labels_on_another_grid_and_scans_without_lesions_are_refused(files, tmp_path):
    scan, labels, affine = files
    score = KLIPScore(GaussianDenoiser(), KLIPInferer(Identity((64, 64))), grid=PriorGrid((64, 64), 6.0))
    moved = affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(labels, moved), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"labels moved\.nii\.gz: got another voxel grid than ct\.nii\.gz"):
        run_tumour_study(score, [LabelledScan(scan.scan, tmp_path / "moved.nii.gz", (1, 2), (2,))])
    with pytest.raises(InputError, match="got 0 without any lesion in the organ"):
        run_tumour_study(score, [])
