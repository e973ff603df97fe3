"""A region to look at: what is scored, what is refused before it, and what the summary says."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import write_series
from mask_files import Drawn, assert_in_box, draw, in_box, write_dicom_seg, write_nifti
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose

from klip_monai.errors import InputError
from klip_monai.inferer import KLIPInferer
from klip_monai.io.masks.roi import Roi
from klip_monai.physics import make_operator
from klip_monai.prior import GaussianDenoiser
from klip_monai.report.summary import Provenance
from klip_monai.scan import Scorer
from klip_monai.scan.region import Region, region_on_slices
from klip_monai.scoring import ExpectedDensity, IDReference
from klip_monai.standard import Placement, PriorGrid
from klip_monai.transforms import (
    KLIPScore,
    KLIPScored,
    LoadRegiond,
    LoadSeriesd,
    MakeCased,
    SaveCased,
    ToPriorGridd,
    one_scan,
)

GRID = PriorGrid((32, 32), 12.0)
REFERENCE = IDReference(
    "key", ExpectedDensity(1.5, (0.02, 0.5), (0.1, 0.4), 0.2), tuple(np.linspace(0.1, 1.0, 19)), 0.05, 0.9, 4, "made up"
)
PROVENANCE = Provenance("test", "0.0.0", "Tests only.")
MIDDLE = ((-40.0, 50.0), (-50.0, 40.0), (10.0, 40.0))
"""A box in the phantom's body, of two of the four slices; mm in RAS."""


class Prior(torch.nn.Module):
    """A closed-form prior as a network, as MONAI's engines want one."""

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return GaussianDenoiser(mean=0.0, std=0.5)(x, sigma)


@pytest.fixture
def inferer() -> KLIPInferer:
    operator = make_operator("sparse_view", image_shape=(32, 32), pixel_mm=12.0, views=8)
    return KLIPInferer.of(operator, sampler_levels=4, window_levels=3, batch_size=3, skin_px=1.0)


@pytest.fixture
def mask(tmp_path):
    return write_nifti(tmp_path / "Smith.nii.gz", draw((5, 5, 5), axes="LSA", box=MIDDLE))


def reading(inferer: KLIPInferer, **options: object) -> Compose:
    """What a bundle does before scoring."""
    to_grid = ToPriorGridd("image", grid=GRID, source_key="source", body_key="body")
    return Compose([LoadSeriesd("image"), to_grid, LoadRegiond("roi", skin_px=inferer.reading.skin_px, **options)])


def by_engine(small_ct, roi, inferer, output, *, keep_names: bool = False) -> dict:
    """A scan on the bundle's way, to its files."""
    scorer = Scorer(Prior(), inferer, grid=GRID, reference=REFERENCE, provenance=PROVENANCE)
    pre = reading(inferer, keep_names=keep_names)
    post = Compose([MakeCased("pred", scorer=scorer, keep_names=keep_names), SaveCased("case", output_dir=output)])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(
            Dataset([{"image": str(small_ct), "roi": roi and str(roi)}], pre), batch_size=1, collate_fn=one_scan
        ),
        network=Prior(),
        inferer=inferer,
        postprocessing=post,
        decollate=True,
    )
    evaluator.run()
    return {**evaluator.state.batch[0], **evaluator.state.output[0]}


def test_all_is_of_the_region_and_the_same_there_as_without_one(small_ct, mask, inferer, tmp_path):
    whole = by_engine(small_ct, None, inferer, tmp_path / "whole")
    part = by_engine(small_ct, mask, inferer, tmp_path / "part")
    volume = whole["source"]
    inside = part["region"].as_tensor()
    assert_in_box(inside[0].numpy(), np.asarray(volume.affine), box=MIDDLE)
    assert torch.equal(part["heatmap"].as_tensor(), whole["heatmap"].as_tensor() * inside)
    assert float((whole["heatmap"] * ~inside).max()) > float(part["heatmap"].max()) > 0
    summary = part["saved"].summary
    assert summary.worst.ras_mm == pytest.approx(
        (np.asarray(volume.affine) @ [*np.argwhere(part["heatmap"][0].numpy() == part["heatmap"].max().item())[0], 1])[
            :3
        ].tolist()
    )
    assert int((part["pred"] * ~inside).max()) == 0
    for candidate in summary.candidates:
        assert all(low < mm < high for mm, (low, high) in zip(candidate.centre_ras_mm, MIDDLE, strict=True))
    assert [score > 0 for score in summary.slice_scores] == inside[0].any(0).any(0).tolist()
    assert summary.scan_score < whole["saved"].summary.scan_score
    assert summary.p_value == REFERENCE.p_value(summary.scan_score)
    assert whole["saved"].summary.region is None


def test_the_score_is_the_highest_of_the_full_map_in_the_region(small_ct, mask, inferer):
    scan = reading(inferer)({"image": str(small_ct), "roi": str(mask)})
    score = Scorer(Prior(), inferer, grid=GRID, reference=REFERENCE)
    images, body = (scan[key].as_subclass(torch.Tensor).permute(3, 0, 1, 2) for key in ("image", "body"))
    full = score.heatmap(images, body)
    inside = in_box(np.asarray(scan["image"].affine), scan["image"].shape[1:], box=MIDDLE)
    # The region reaches the prior's grid by way of the scan's: it ends where the scan's voxels do.
    off = scan["region_slices"][0].numpy() != inside
    assert off.mean() < 0.01
    highest = float(full[:, 0].permute(1, 2, 0)[scan["region_slices"][0]].max())
    assert KLIPScore(score)(scan["source"], scan["region"]).meta["scan_score"] == highest
    assert score(small_ct, roi=str(mask)).scan_score == highest
    assert highest < float(full.max())


def test_transforms_in_python_give_what_the_engine_gives(small_ct, mask, inferer, tmp_path):
    engine = by_engine(small_ct, mask, inferer, tmp_path)
    scan = reading(inferer)({"image": str(small_ct), "roi": str(mask)})
    score = Scorer(Prior(), inferer, grid=GRID, reference=REFERENCE)
    found = KLIPScored("source", scorer=score)(scan)["heatmap"]
    case = score(small_ct, roi=Roi.parse(str(mask)))
    for heatmap in (found, case.heatmap):
        assert torch.equal(heatmap.as_tensor(), engine["heatmap"].as_tensor())
    assert torch.equal(case.labels.as_tensor(), engine["pred"].as_tensor())
    assert found.meta["scan_score"] == case.scan_score == engine["case"].scan_score
    assert torch.equal(KLIPScore(score)(scan["source"]).as_tensor() * scan["region"], found)


def test_the_summary_says_what_was_looked_at_and_names_nothing(small_ct, inferer, tmp_path):
    drawn = draw((5, 5, 5), axes="LSA", box=MIDDLE, value=5)
    path = write_nifti(tmp_path / "Smith.nii.gz", drawn)
    summary = by_engine(small_ct, f"{path}:5,6", inferer, tmp_path / "out")["saved"].summary
    region = summary.region
    voxel_ml = float(np.prod(summary.source.spacing_mm)) / 1000
    assert region.volume_ml == pytest.approx(region.voxels * voxel_ml)
    assert region.volume_ml == pytest.approx(0.9 * 0.9 * 0.3 * 1000, rel=0.4)  # of slices of 6 mm
    assert region.labels == (5, 6)
    assert len(region.mask_sha256) == 64
    assert region.share_inside == pytest.approx(0.8, abs=0.25)
    assert 0.9 < region.share_scored <= 1
    assert region.names == ()
    remarks = " ".join(summary.remarks)
    for words in ("p is too large", "1 of the labels asked for have no voxel", "of the mask lies in the scan"):
        assert words in remarks
    for file in (tmp_path / "out").iterdir():
        assert b"Smith" not in file.read_bytes()
    named = by_engine(small_ct, f"{path}:5", inferer, tmp_path / "named", keep_names=True)["saved"].summary.region
    assert named.names == ("Smith.nii.gz",)
    assert json.dumps(region.to_json())


def test_a_region_that_reaches_out_of_the_body_is_remarked_upon(small_ct, inferer, tmp_path):
    all_of_it = draw((40, 40, 10), box=((-200, 200), (-200, 200), (0, 60)))
    mask = write_nifti(tmp_path / "a.nii.gz", all_of_it)
    summary = by_engine(small_ct, mask, inferer, tmp_path / "out")["saved"].summary
    assert 0.1 < summary.region.share_scored < 0.9
    assert any("beneath the skin and in the prior's field of view" in remark for remark in summary.remarks)


def test_scans_without_a_region_pass_as_they_are(small_ct, inferer):
    for given in ({}, {"roi": None}):
        scan = reading(inferer)({"image": str(small_ct), **given})
        assert not {"roi", "region", "region_slices"} & scan.keys()


def test_a_region_outside_of_the_scan_or_the_body_is_refused_before_scoring(small_ct, inferer, tmp_path):
    pre = reading(inferer)
    beside = ((400.0, 450.0), (-50.0, 40.0), (10.0, 40.0))
    path = write_nifti(tmp_path / "a.nii.gz", draw((5, 5, 5), box=beside))
    with pytest.raises(RuntimeError) as caught:
        pre({"image": str(small_ct), "roi": str(path)})
    assert isinstance(caught.value.__cause__, InputError)
    message = str(caught.value.__cause__)
    assert "--roi: got a region that lies outside of the scan, at RAS 402 to 448, -48 to 38, 12 to 38 mm" in message
    in_air = ((-165.0, -150.0), (150.0, 165.0), (10.0, 40.0))
    path = write_nifti(tmp_path / "b.nii.gz", draw((5, 5, 5), box=in_air))
    with pytest.raises(RuntimeError) as caught:
        pre({"image": str(small_ct), "roi": str(path)})
    assert "nothing of which lies beneath the skin" in str(caught.value.__cause__)


def test_a_mask_of_another_frame_of_reference_is_refused_and_one_of_the_same_is_not(inferer, tmp_path):
    hu = np.full((6, 40, 40), -1000, dtype=np.int16)
    hu[:, 4:36, 4:36] = 40
    place = {"pixel_spacing": (5.0, 5.0), "origin": (-100.0, -100.0, -20.0), "step": 10.0}
    write_series(tmp_path / "ct", hu, edit=lambda _, ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), **place)
    pre = reading(inferer)
    same = write_dicom_seg(tmp_path / "same.dcm", draw((5, 5, 5)), frame_uid="1.2.3")
    scan = pre({"image": str(tmp_path / "ct"), "roi": str(same)})
    volume = scan["source"]
    assert_in_box(scan["region"][0].numpy(), np.asarray(volume.affine))
    other = write_dicom_seg(tmp_path / "other.dcm", draw((5, 5, 5)), frame_uid="1.2.4")
    with pytest.raises(RuntimeError) as caught:
        pre({"image": str(tmp_path / "ct"), "roi": str(other)})
    message = str(caught.value.__cause__)
    assert "--roi: got a mask with FrameOfReferenceUID 1.2.4, expected that of the scan, 1.2.3" in message
    write_nifti(tmp_path / "plain.nii.gz", draw((5, 5, 5)))
    pre({"image": str(tmp_path / "ct"), "roi": str(tmp_path / "plain.nii.gz")})


def test_a_region_of_one_voxel_has_a_score(small_ct, inferer, tmp_path):
    spot = ((0.0, 1.0), (-20.0, -19.0), (25.0, 26.0))
    path = write_nifti(tmp_path / "a.nii.gz", draw((1, 1, 1), box=spot))
    summary = by_engine(small_ct, path, inferer, tmp_path / "out")["saved"].summary
    assert summary.region.voxels == 1
    assert summary.scan_score > 0
    volume = summary.region.volume_ml
    said = f"it has {volume:.2g} ml, and places below 0.1 ml are no candidates"
    assert volume < 0.1
    assert summary.candidate_count == 0
    assert any(said in remark for remark in summary.remarks)
    larger = Region(4, 0.1, 1, "", (), 0, 1.0, 1.0)
    assert not any("no candidates" in remark for remark in larger.remarks())


def test_the_region_on_standard_slices_keeps_what_lies_between_their_pixels():
    region = torch.zeros(40, 40, 3, dtype=torch.bool)
    region[10, 10, 1] = True
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    placement = Placement(PriorGrid((8, 8), 5.0), (40, 40, 3), affine, (17.5, 17.5))
    slices, reached = region_on_slices(region, affine, placement)
    assert np.argwhere(slices.numpy()).tolist() == [[1, 0, 2, 2]]
    assert reached == 1.0


def test_many_slices_and_a_part_of_the_body_pull_p_both_ways():
    meta = {"sha256": "0", "labels": "", "absent": 0, "names": "", "share_inside": 1.0, "share_scored": 1.0}
    region = Region.of(MetaTensor(torch.ones(1, 2, 3, 4, dtype=torch.bool), affine=2 * torch.eye(4), meta=meta))
    assert (region.voxels, region.volume_ml, region.slices) == (24, pytest.approx(0.192), 4)
    assert len(region.remarks()) == 1
    assert "as far as the number of slices" in region.remarks(is_long=True)[0]
    assert "99 % of the mask" in replace(region, share_inside=0.99).remarks()[1]


def test_drawn_masks_of_the_tests_are_boxes():
    drawn: Drawn = draw((5, 5, 5), box=MIDDLE)
    assert int(drawn.values.sum()) == 18 * 18 * 6
    assert nib.aff2axcodes(drawn.affine) == ("R", "A", "S")
