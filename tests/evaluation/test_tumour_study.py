from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.evaluation import save_tumour_study, tumour_report
from klip_monai.evaluation.tumour_figures import measured, row_of
from klip_monai.evaluation.tumour_study import LabelledScan, labelled_scans, run_tumour_study
from klip_monai.inferer import KLIPInferer
from klip_monai.io import read_volume
from klip_monai.phantom import Organ, random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer
from klip_monai.scoring import ExpectedDensity, IDReference
from klip_monai.standard import PriorGrid, resample_mask, standard_slices

AFFINE = np.array([[0, -2.0, 0, 40], [-2.0, 0, 0, 40], [0, 0, 5.0, 0], [0, 0, 0, 1]])  # of (H, W, Z)


def regions() -> dict[str, torch.Tensor]:
    """Ten slices; an organ in all of them and two lesions in it, one over slices 2 and 3, the other in slice 7."""
    body, organ, lesion = (torch.zeros(10, 40, 40, dtype=torch.bool) for _ in range(3))
    body[:, 4:36, 4:36] = True
    organ[:, 10:30, 10:22] = True
    lesion[2:4, 10:18, 10:18] = True
    lesion[7, 24:28, 14:18] = True
    return {"lesion": lesion, "organ": organ, "body": body}


def figures(heat: torch.Tensor, **more):
    return measured(heat, **(regions() | more), affine=AFFINE, name="a")


def a_reference(**changes) -> IDReference:
    expected = ExpectedDensity(4.0, (0.1,), (1.0,), 1.0)
    given = {"key": "k", "expected": expected, "scan_scores": (0.2, 0.5, 0.9), "suspicious": 0.5, "strong": 0.9}
    return IDReference(**(given | {"slices": 10, "description": "toy"} | changes))


def test_a_map_of_the_lesions_gets_full_marks():
    scan = figures(regions()["lesion"].float() + 0.01 * torch.rand(10, 40, 40))
    assert (scan.lesions, scan.lesion_slices, scan.slices) == (2, 3, 10)
    assert scan.in_body == scan.in_organ == scan.slice_level == scan.organ_slice_level == 1
    assert scan.average_precision == scan.organ_average_precision == pytest.approx(1)
    assert scan.best_dice == pytest.approx(1)
    assert {lesion for _, lesion in scan.peaks if lesion} == {1, 2}
    assert {found.share.value for found in row_of([scan]).sensitivity} == {1.0}


def test_lesions_below_and_above_one_ml_are_told_apart():
    lesion = regions()["lesion"]
    scan = figures(lesion.float())
    assert scan.lesion_ml == pytest.approx((128 * 0.02, 16 * 0.02))
    large, small = torch.zeros(10, 40, 40), torch.zeros(10, 40, 40)
    large[3, 12, 12] = small[7, 25, 15] = 1.0
    of = {name: row_of([figures(heat)]) for name, heat in (("large", large), ("small", small))}
    counts = {
        (name, least_ml): (point.found, point.lesions)
        for name, row in of.items()
        for least_ml in (0.0, 1.0)
        if (point := row.found("organ", least_ml=least_ml, false_peaks=1.0))
    }
    assert counts == {("large", 0.0): (1, 2), ("large", 1.0): (1, 1), ("small", 0.0): (1, 2), ("small", 1.0): (0, 1)}


def test_without_lesions_of_one_ml_there_is_no_such_figure():
    lesion = regions()["lesion"]
    lesion[2:4] = False
    row = row_of([figures(torch.rand(10, 40, 40), lesion=lesion)])
    assert row.found("body", least_ml=1.0, false_peaks=1.0) is None
    assert row.found("body", least_ml=0.0, false_peaks=1.0).lesions == 1


def test_more_false_peaks_find_more_and_the_organ_has_fewer_of_them():
    heat = torch.zeros(10, 40, 40)
    heat[3, 12, 12], heat[7, 25, 15] = 0.9, 0.3
    heat[0, 8, 30], heat[9, 30, 30], heat[5, 20, 33] = 1.0, 0.5, 0.4  # all out of the organ
    row = row_of([figures(heat)])
    found = [row.found("body", least_ml=0.0, false_peaks=n).found for n in (0.5, 1.0, 2.0, 4.0)]
    assert found == [0, 1, 1, 2]
    assert row.found("organ", least_ml=0.0, false_peaks=0.5).found == 2


def test_what_is_ignored_is_neither_right_nor_wrong_to_find():
    ignore = torch.zeros(10, 40, 40, dtype=torch.bool)
    ignore[5, 18:22, 12:16] = True
    heat = regions()["lesion"].float()
    heat[5, 16:24, 10:18] = 1.5  # spills over the edge of what is ignored
    heat[5, 20, 14] = 2.0
    scan = figures(heat, ignore=ignore)
    assert not [value for value, lesion in scan.peaks if not lesion]
    assert next(lesion for _, lesion in figures(heat).peaks) == 0
    assert figures(heat, ignore=ignore, reference=a_reference()).first_true == 1
    assert figures(heat, reference=a_reference()).first_true == 2


def test_the_rank_of_the_first_true_candidate_needs_a_reference():
    heat = 0.8 * regions()["lesion"].float()
    heat[5, 30:34, 28:34] = 1.0
    scan = figures(heat, reference=a_reference())
    assert (scan.candidates, scan.first_true) == (3, 2)
    assert scan.p_value == pytest.approx(0.25)
    nothing = figures(0.1 * heat, reference=a_reference())
    assert (nothing.candidates, nothing.first_true) == (0, None)
    without = figures(heat)
    assert (without.candidates, without.first_true, without.p_value) == (None, None, None)


def test_a_random_map_gets_what_chance_gives():
    scan = figures(torch.rand(10, 40, 40, generator=torch.Generator().manual_seed(0)))
    assert scan.in_body == pytest.approx(0.5, abs=0.1)
    assert scan.average_precision == pytest.approx(scan.prevalence, abs=0.02)
    assert scan.organ_average_precision == pytest.approx(scan.organ_prevalence, abs=0.05)


def test_bright_tissue_outside_of_the_organ_counts_in_the_body_only():
    heat = regions()["lesion"].float()
    heat[:, 4:36, 28:36] = 2.0
    scan = figures(heat)
    assert scan.in_organ == scan.organ_average_precision == 1
    assert scan.in_body < 0.8
    assert scan.average_precision < 0.2
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


class Known(Scorer):
    """Gives a heat map that is known, and keeps what it was asked."""

    def __init__(self, heat, *, grid: PriorGrid) -> None:
        super().__init__(GaussianDenoiser(), KLIPInferer.of(Identity(grid.image_shape)), grid=grid)
        self.heat, self.asked = heat, []

    def heatmap(self, images, body, *, slice_mm=None, progress=None):
        self.asked.append(slice_mm)
        return self.heat


def test_a_labelled_scan_is_scored_on_its_own_grid_in_three_dimensions(files):
    scan, labels, affine = files
    grid = PriorGrid((64, 64), 6.0)
    # Its own way to the prior's grid: a mask that is turned or mirrored would lie elsewhere.
    standard = standard_slices(read_volume(scan.scan), grid)
    perfect = resample_mask(labels == 2, standard.placement).float()
    score = Known(perfect, grid=grid)
    study = run_tumour_study({"perfect": score, "mirrored": Known(perfect.flip(-1), grid=grid)}, [scan])
    (only,) = study.rows["perfect"].scans
    assert score.asked == [pytest.approx(np.linalg.norm(affine[:3, 2]))]
    assert only.slices == labels.shape[2]
    assert only.lesions == 1
    assert 0 < only.lesion_slices < only.slices
    assert only.lesion_ml[0] == pytest.approx((labels == 2).sum() * abs(np.linalg.det(affine[:3, :3])) / 1000, rel=0.25)
    assert only.in_body == only.average_precision == 1
    assert study.rows["mirrored"].scans[0].average_precision < 0.1
    assert study.panels == ()


def test_the_report_has_a_line_for_each_score_and_scan_and_pictures_if_asked_for(files, tmp_path):
    scan, _, _ = files
    for path, name in ((scan.scan, "one_ct.nii.gz"), (scan.labels, "one_labels.nii.gz")):
        (tmp_path / name).write_bytes(path.read_bytes())
    scans = labelled_scans(tmp_path, organ=(1, 2), lesion=(2,))
    inferer = KLIPInferer.of(Identity((64, 64)), window_levels=2, sampler_levels=2)
    score = Scorer(GaussianDenoiser(std=0.5), inferer, grid=PriorGrid((64, 64), 6.0))
    study = run_tumour_study({"in the plane": score, "wide": score}, scans, pictures=True)
    save_tumour_study(study, tmp_path / "out", provenance={"bundle": "toy"})
    text = (tmp_path / "out" / "tumour_study.md").read_text()
    assert text.count("| one_ct | ") == 2
    assert "| in the plane | organ | 1 ml and more | " in text
    content = json.loads((tmp_path / "out" / "tumour_study.json").read_text())
    assert content["rows"]["wide"]["scans"][0]["lesions"] == 1
    pictures = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert pictures == ["pictures/in the plane/one_ct.png", "pictures/wide/one_ct.png"]


def test_a_picture_shows_the_largest_lesion_and_says_whether_it_is_found(files, tmp_path, monkeypatch):
    scan, labels, _ = files
    grid = PriorGrid((64, 64), 6.0)
    standard = standard_slices(read_volume(scan.scan), grid)
    lesion = resample_mask(labels == 2, standard.placement)
    wrong = lesion.float().flip(-1)
    captions = []
    monkeypatch.setattr(tumour_report, "draw_panel", lambda path, **given: captions.append(given["caption"]))
    for heat in (lesion.float(), wrong, 0.1 * lesion + wrong + wrong.flip(-2)):
        study = run_tumour_study(Known(heat, grid=grid), [scan], pictures=True)
        (shown,) = study.panels
        assert shown.lesion.sum() == lesion.flatten(1).sum(dim=1).max()
        assert shown.heat.tolist() == heat[lesion.flatten(1).sum(dim=1).argmax(), 0].tolist()
        save_tumour_study(study, tmp_path, provenance={})
    assert [(" found " in caption, "no peak" in caption) for caption in captions] == [
        (True, False),
        (False, True),
        (False, False),
    ]


def test_a_folder_without_pairs_is_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"got no NAME_ct\.nii\.gz"):
        labelled_scans(tmp_path, organ=(1,), lesion=(2,))
    (tmp_path / "one_ct.nii.gz").write_bytes(files[0].scan.read_bytes())
    with pytest.raises(InputError, match=r"one_labels\.nii\.gz is missing"):
        labelled_scans(tmp_path, organ=(1,), lesion=(2,))


def test_labels_on_another_grid_and_scans_without_lesions_are_refused(files, tmp_path):
    scan, labels, affine = files
    score = Scorer(GaussianDenoiser(), KLIPInferer.of(Identity((64, 64))), grid=PriorGrid((64, 64), 6.0))
    moved = affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(labels, moved), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"labels moved\.nii\.gz: got another voxel grid than ct\.nii\.gz"):
        run_tumour_study(score, [LabelledScan(scan.scan, tmp_path / "moved.nii.gz", (1, 2), (2,))])
    with pytest.raises(InputError, match="got 0 without any lesion in the organ"):
        run_tumour_study(score, [])
