"""MONAI faces: volumes in, maps on the same grid out, whichever way they are composed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from ct_files import write_series
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Invertd, Transform
from pydicom import Dataset as Header

from klip_monai.errors import InputError, OutputError
from klip_monai.inferer import KLIPInferer
from klip_monai.io.names import case_name
from klip_monai.io.read import read_volume
from klip_monai.phantom import random_scan
from klip_monai.physics import make_operator
from klip_monai.prior import GaussianDenoiser
from klip_monai.report.summary import Provenance
from klip_monai.scan import Case, Scorer, save_case
from klip_monai.scan.calibration import (
    MIN_SCANS,
    calibrate,
    fit_null,
    healthy_scans,
    of_other_people,
    phantom_scans,
    set_scans,
    standardized,
)
from klip_monai.scan.output_files import file_names
from klip_monai.scan.region import Region
from klip_monai.scan.summary import remarks, summarize
from klip_monai.scoring import ContextNull, ExpectedDensity, IDReference
from klip_monai.scoring.context import ContextNetwork
from klip_monai.standard import PriorGrid, beneath_skin, slice_distance, standard_slices
from klip_monai.training import Group, SliceSet, write_slice_set
from klip_monai.transforms import (
    CheckOutputd,
    KLIPScore,
    KLIPScored,
    LoadSeriesd,
    MakeCased,
    SaveCased,
    ToPriorGridd,
    one_scan,
)

GRID = PriorGrid((32, 32), 12.0)
PROVENANCE = Provenance("test", "0.0.0", "Tests only.")


class Prior(torch.nn.Module):
    """A closed-form prior as a network, as MONAI's engines want one."""

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return GaussianDenoiser(mean=0.0, std=0.5)(x, sigma)


@pytest.fixture
def inferer() -> KLIPInferer:
    operator = make_operator("sparse_view", image_shape=(32, 32), pixel_mm=12.0, views=8)
    return KLIPInferer.of(operator, sampler_levels=4, window_levels=3, batch_size=3)


@pytest.fixture
def reference() -> IDReference:
    expected = ExpectedDensity(1.5, (0.02, 0.5), (0.1, 0.4), 0.2)
    return IDReference("key", expected, tuple(np.linspace(0.1, 1.0, 19)), 0.2, 0.9, 4, "made up")


def evaluate(small_ct, inferer, reference: IDReference, post: Sequence[Transform] = ()):
    """The way the bundle does it: data loader, evaluator, and what makes a case of the densities."""
    pre = Compose([LoadSeriesd("image"), ToPriorGridd("image", grid=GRID, source_key="source", body_key="body")])
    scorer = Scorer(Prior(), inferer, grid=GRID, reference=reference, provenance=PROVENANCE)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": str(small_ct)}], pre), batch_size=1),
        network=Prior(),
        inferer=inferer,
        postprocessing=Compose([MakeCased("pred", scorer=scorer), *post]),
        decollate=True,
    )
    evaluator.run()
    return evaluator.state.output[0]


@pytest.mark.parametrize("calibrated", [False, True])
def test_scorer_evaluator_and_transform_give_the_same_map_on_the_grid_of_the_source(
    small_ct, inferer, reference, calibrated
):
    source = nib.load(small_ct)
    if not calibrated:
        reference = replace(reference, expected=replace(reference.expected, strength=0.0))
    by_engine = evaluate(small_ct, inferer, reference)
    scorer = Scorer(Prior(), inferer, grid=GRID, reference=reference if calibrated else None)
    by_transform = Compose([LoadSeriesd("image"), KLIPScored("image", scorer=scorer)])({"image": str(small_ct)})
    case = Scorer(Prior(), inferer, grid=GRID, reference=reference)(small_ct)
    for heatmap in (by_engine["heatmap"], by_transform["heatmap"], case.heatmap):
        assert isinstance(heatmap, MetaTensor)
        assert tuple(heatmap.shape) == (1, *source.shape)
        np.testing.assert_allclose(heatmap.affine, source.affine, atol=1e-4)
        assert torch.equal(heatmap.as_tensor(), case.heatmap.as_tensor())
    assert torch.equal(by_engine["pred"].as_tensor(), case.labels.as_tensor())
    assert by_engine["case"].scan_score == by_transform["heatmap"].meta["scan_score"] == case.scan_score > 0


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_slices_straight_above_each_other_are_scored_in_space_others_each_by_itself(inferer, tilt):
    affine = torch.diag(torch.tensor([-8.0, -8.0, 4.0, 1.0], dtype=torch.float64))
    affine[1, 2] = 4.0 * tilt
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(40, 60, (1, 24, 24, 5)).astype(np.float32))
    volume = MetaTensor(values, affine=affine)
    in_space = inferer.changed(lowpass_z_mm=4.0, smoothing_z_mm=4.0)
    flat, found = (KLIPScore(Scorer(Prior(), one, grid=GRID))(volume).as_tensor() for one in (inferer, in_space))
    assert torch.equal(flat, found) == bool(tilt)
    assert slice_distance(affine.numpy()) == (None if tilt else 4.0)


def test_a_context_null_is_fitted_and_its_map_is_the_same_by_engine_and_transform(small_ct, inferer):
    one = inferer.changed(lowpass_z_mm=3.0, null="context", calibration=0.5)
    score = Scorer(Prior(), one, grid=GRID)
    people = list(standardized(phantom_scans(8, slices=24), GRID))
    null = fit_null(score, people)
    volume = LoadSeriesd("image")({"image": str(small_ct)})["image"]
    healthy = standardized([volume] * MIN_SCANS, GRID)
    made = calibrate(score, healthy, settings={}, description="the same scan", null=null)
    again = Scorer(Prior(), one, grid=GRID, reference=made)(volume)
    assert made.scan_scores[0] == pytest.approx(again.scan_score, rel=1e-4)
    assert len(made.peaks) == MIN_SCANS
    by_engine = evaluate(small_ct, one, made)
    assert torch.equal(by_engine["heatmap"].as_tensor(), again.heatmap.as_tensor())
    assert not torch.allclose(again.heatmap.as_tensor(), KLIPScore(score)(volume).as_tensor())


def test_people_of_two_sources_are_numbered_through(small_ct):
    volume = LoadSeriesd("image")({"image": str(small_ct)})["image"]
    sources = [standardized([volume] * 2, GRID), standardized([volume] * 3, GRID)]
    assert [scan.person for scan in of_other_people(sources)] == [0, 1, 2, 3, 4]


def test_calibration_multiplies_the_map_by_the_gain_of_its_slices(small_ct, inferer, reference):
    volume = LoadSeriesd("image")({"image": str(small_ct)})["image"]
    slices = standard_slices(volume, GRID)
    plain = Scorer(Prior(), inferer, grid=GRID).heatmap(slices.images, slices.body)
    calibrated = Scorer(Prior(), inferer, grid=GRID, reference=reference).heatmap(slices.images, slices.body)
    torch.testing.assert_close(calibrated, reference.expected.heatmap(plain, slices.images))
    assert not torch.allclose(calibrated, plain)


def test_evaluator_and_transform_take_the_larger_of_two_densities(small_ct, inferer, reference):
    both = replace(reference, expected=replace(reference.expected, sharp=0.5))
    by_engine = evaluate(small_ct, inferer.changed(sharp=True), both)
    score = Scorer(Prior(), inferer.changed(sharp=True), grid=GRID, reference=both)
    volume = LoadSeriesd("image")({"image": str(small_ct)})["image"]
    assert torch.equal(by_engine["heatmap"].as_tensor(), KLIPScore(score)(volume).as_tensor())
    slices = standard_slices(volume, GRID)
    alone = Scorer(Prior(), inferer, grid=GRID, reference=reference).heatmap(slices.images, slices.body)
    every = inferer.changed(lowpass_px=0.0)(slices.images, Prior()) * slices.body
    larger = torch.maximum(alone, 0.5 * every)
    torch.testing.assert_close(score.heatmap(slices.images, slices.body), larger)
    assert float((larger > alone).float().mean()) > 0.001


def test_what_was_brought_to_the_prior_s_grid_comes_back_by_monai_s_inverse(small_ct):
    pre = Compose([LoadSeriesd("image"), ToPriorGridd("image", grid=GRID)])
    data = pre({"image": str(small_ct)})
    data["pred"] = data["image"] + 1
    back = Invertd("pred", pre, orig_keys="image", nearest_interp=False, to_tensor=True)(data)["pred"]
    source = nib.load(small_ct)
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-4)
    assert tuple(back.shape[1:]) == source.shape
    inside = np.asarray(source.dataobj) > -100
    assert float(back[0].numpy()[inside].mean()) > 2 * float(back[0].numpy()[~inside].mean())


def test_maps_are_zero_outside_of_the_body(small_ct, inferer, reference):
    result = evaluate(small_ct, inferer, reference)
    corner = result["heatmap"][0, :5, :5]
    assert np.asarray(nib.load(small_ct).dataobj)[:5, :5].max() < -500
    assert float(corner.abs().max()) == 0


def test_maps_and_scores_leave_out_the_rim_of_the_body(small_ct, inferer, reference):
    rimless = inferer.changed(skin_px=3.0)
    volume = LoadSeriesd("image")({"image": str(small_ct)})["image"]
    slices = standard_slices(volume, GRID)
    whole = Scorer(Prior(), inferer, grid=GRID, reference=reference).heatmap(slices.images, slices.body)
    score = Scorer(Prior(), rimless, grid=GRID, reference=reference)
    inner = beneath_skin(slices.body, skin_px=3.0)
    torch.testing.assert_close(score.heatmap(slices.images, slices.body), whole * inner)
    assert float((whole * ~inner).max()) > 0
    by_engine = evaluate(small_ct, rimless, reference)
    assert torch.equal(by_engine["heatmap"].as_tensor(), KLIPScore(score)(volume).as_tensor())
    assert by_engine["case"].scan_score == pytest.approx(float((whole * inner).max()))
    assert not torch.equal(score.counted(slices.body), slices.body)


def test_labels_follow_the_thresholds_and_small_islands_vanish(reference):
    affine = torch.diag(torch.tensor([-12.0, -12.0, 5.0, 1.0], dtype=torch.float64))
    values = torch.full((1, 32, 32, 5), -1000.0)
    values[0, 2:30, 2:30] = 40.0
    volume = MetaTensor(values, affine=affine)
    inferer = KLIPInferer.of(make_operator("identity", image_shape=(32, 32), pixel_mm=12.0), sampler_levels=0)
    plain = replace(reference, expected=replace(reference.expected, strength=0.0))
    scorer = Scorer(Prior(), inferer, grid=GRID, reference=plain)
    density = torch.zeros(5, 1, 32, 32)
    density[1:4, 0, 8:14, 8:14] = 0.5
    density[2, 0, 10:12, 10:12] = 1.5
    density[2, 0, 20, 20] = 5.0
    case = scorer.case(scorer.read(volume), density)
    labels, heatmap = case.labels[0], case.heatmap[0]
    assert labels.dtype == torch.uint8
    assert (int((labels == 2).sum()), int((labels == 1).sum())) == (4 + 1, 6 * 6 * 3 - 4)  # 0.7 ml is enough
    assert float(heatmap.sum()) == pytest.approx(float(density.sum()))
    fine = affine.clone()
    fine[2, 2] = 0.6
    labels = scorer.case(scorer.read(MetaTensor(values, affine=fine)), density).labels
    assert int((labels == 2).sum()) == 4, "a voxel of 0.086 ml is no candidate"


def test_a_case_is_written_whole(small_ct, inferer, reference, tmp_path):
    result = evaluate(small_ct, inferer, reference, [SaveCased("case", output_dir=tmp_path / "out")])
    name = case_name(read_volume(small_ct))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(file_names(name).values())
    summary = result["saved"].summary
    assert summary.p_value == reference.p_value(summary.scan_score)
    assert summary.candidate_count == len(summary.candidates) > 0
    assert summary.candidates[0].p == summary.p_value
    assert summary.candidates[0].voxel == summary.worst.voxel
    assert summary.source.series_uid is None
    assert summary.timings_s["score"] > 0
    assert summary.remarks == ()


@pytest.mark.parametrize("keep_names", [False, True])
def test_a_case_that_is_there_is_refused_before_scoring(small_ct, tmp_path, keep_names):
    load = LoadSeriesd("image", keep_names=keep_names)
    name = "small" if keep_names else case_name(read_volume(small_ct))
    pre = [load, CheckOutputd("image", output_dir=tmp_path)]
    Compose(pre)({"image": str(small_ct)})
    (tmp_path / f"{name}_seg.dcm").write_text("of an earlier run with other outputs")
    with pytest.raises(OutputError, match=rf"{name}_seg\.dcm: already there.*--overwrite"):
        pre[1](load({"image": str(small_ct)}))
    CheckOutputd("image", output_dir=tmp_path, overwrite=True)(load({"image": str(small_ct)}))


def test_a_scan_much_longer_than_the_healthy_ones_is_remarked_upon(reference):
    assert remarks(6, reference) == []
    (remark,) = remarks(7, reference)
    assert "got 7 slices, the reference's healthy scans have 4" in remark


def test_an_output_that_cannot_be_written_is_refused_when_built(tmp_path):
    (tmp_path / "file").write_text("taken")
    with pytest.raises(OutputError, match="file"):
        SaveCased("case", output_dir=tmp_path / "file" / "out")
    with pytest.raises(InputError, match="nifty"):
        SaveCased("case", output_dir=tmp_path, outputs=("nifty",))


def test_calibration_keeps_a_score_per_scan_and_refuses_too_few(small_ct, inferer):
    volume = LoadSeriesd("image")({"image": str(small_ct)})["image"]
    score = Scorer(Prior(), inferer, grid=GRID)
    made = calibrate(score, standardized([volume] * MIN_SCANS, GRID), settings={"a": 1}, description="the same scan")
    assert len(made.scan_scores) == MIN_SCANS
    assert made.slices == volume.shape[-1]
    assert made.matches({"a": 1})
    assert not made.matches({"a": 2})
    again = Scorer(Prior(), inferer, grid=GRID, reference=made)
    assert made.scan_scores[0] == pytest.approx(again(volume).scan_score, rel=1e-4)
    with pytest.raises(InputError, match="at least 19"):
        calibrate(score, standardized([volume], GRID), settings={}, description="one scan")


def test_scans_with_one_patient_id_are_of_one_person(small_ct, tmp_path):
    hu = np.full((3, 40, 40), -1000, dtype=np.int16)
    hu[:, 8:32, 6:34] = 40
    for name, patient, issuer in (("a", "1", "x"), ("b", "1 ", "x"), ("c", "2", "x"), ("d", "1", "y"), ("e", "", "x")):

        def identify(_: int, header: Header, patient: str = patient, issuer: str = issuer) -> None:
            header.PatientID, header.IssuerOfPatientID = patient, issuer

        write_series(tmp_path / name, hu, pixel_spacing=(8.0, 8.0), edit=identify)
    write_series(tmp_path / "f", hu, pixel_spacing=(8.0, 8.0), edit=lambda _, header: delattr(header, "PatientID"))
    shutil.copy(small_ct, tmp_path / "g.nii.gz")
    shutil.copy(small_ct, tmp_path / "h.nii.gz")
    assert [scan.person for scan in standardized(healthy_scans(tmp_path), GRID)] == [0, 0, 1, 2, 3, 4, 5, 6]


def test_a_slice_set_is_taken_in_runs_of_neighbouring_slices(tmp_path):
    grid = PriorGrid((64, 64), 6.0, body_hu=-140.0)

    def group(seed: int, slices: int) -> Group:
        return Group(f"p{seed}", "phantoms", "reference", None, lambda: iter([random_scan(seed, slices=slices).image]))

    write_slice_set([group(1, 7), group(2, 2), group(3, 3)], tmp_path, grid=grid)
    data = SliceSet(tmp_path)
    runs = list(set_scans(data, slices=3))
    assert [len(run.images) for run in runs] == [3, 3, 3]
    assert [run.person for run in runs] == [0, 0, 2]
    assert [len(whole.images) for whole in set_scans(data)] == [7, 2, 3]
    torch.testing.assert_close(runs[1].images[0], data[3]["image"])
    torch.testing.assert_close(runs[2].images[2], data[11]["image"])
    expected = standard_slices(random_scan(3, slices=3).image, grid)
    agree = (runs[2].body == expected.body).float().mean()
    assert float(agree) > 0.999


def test_case_of_a_tilted_scan_is_shown_straight_and_says_so(reference, tmp_path):
    affine = torch.diag(torch.tensor([-2.0, -2.0, 5.0, 1.0], dtype=torch.float64))
    affine[1, 2] = -1.3
    values = torch.full((1, 32, 32, 6), -1000.0)
    values[:, 6:26, 6:26] = 40.0
    meta = {"name": "t", "format": "nifti", "series_uid": "", "repairs": ""}
    labels = torch.zeros(values.shape, dtype=torch.uint8)
    labels[0, 10:14, 12:15, 1:4] = 2
    volume, heat, marked = (MetaTensor(part, affine=affine, meta=meta) for part in (values, labels * 0.1, labels))
    summary = save_case(Case(volume, heat, marked, 0.2, reference, PROVENANCE), tmp_path).summary
    assert "gantry tilt" in summary.remarks[0]
    in_space = replace(PROVENANCE, settings={"lowpass_z_mm": 3.0})
    assert any(
        "scored by itself" in remark for remark in Case(volume, heat, marked, 0.2, reference, in_space).scoring_remarks
    )
    assert not Case(volume, heat, marked, 0.2, reference, PROVENANCE).scoring_remarks
    smoothed = replace(PROVENANCE, settings={"smoothing_z_mm": 2.0})
    assert Case(volume, heat, marked, 0.2, reference, smoothed).scoring_remarks
    for order in permutations(range(3)):
        parts = (
            MetaTensor(part.as_tensor().permute(0, *(1 + axis for axis in order)), affine=affine[:, [*order, 3]])
            for part in (volume, heat, marked)
        )
        assert Case(*parts, 0.2, reference, in_space).scoring_remarks, order
        straight = torch.diag(torch.tensor([-2.0, -2.0, 5.0, 1.0], dtype=torch.float64))[:, [*order, 3]]
        parts = (MetaTensor(part.as_tensor(), affine=straight) for part in (volume, heat, marked))
        assert not Case(*parts, 0.2, reference, in_space).scoring_remarks, order
    (candidate,) = summary.candidates
    assert candidate.voxel == (10, 12, 1)
    assert candidate.peak_ras_mm == pytest.approx((-20.0, -24.0 - 1.3, 5.0))
    assert candidate.extent_mm == pytest.approx((8.0, 6.0, 3 * (25 + 1.3**2) ** 0.5))
    image = sitk.ReadImage(str(tmp_path / "t_labels.nii.gz"))
    assert image.GetSize() == (32, 36, 6)
    assert int((sitk.GetArrayFromImage(image) == 2).sum()) == int((labels == 2).sum())
    assert summary.volume_ml["Strongly suspicious"] == pytest.approx(4 * 3 * 3 * 20 / 1000)


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("sharp", [None, 2.0])
def test_a_map_that_nothing_was_taken_off_is_not_called_calibrated(strength, sharp, reference):
    meta = {"name": "t", "format": "nifti", "series_uid": "", "repairs": ""}
    volume, heat, marked = (MetaTensor(torch.zeros(1, 4, 4, 4), meta=meta) for _ in range(3))
    curve = replace(reference.expected, strength=strength, sharp=sharp)
    for expected in (curve, ContextNull(ContextNetwork(), 3.0, curve, sharp)):
        summary = summarize(Case(volume, heat, marked, 0.2, replace(reference, expected=expected), PROVENANCE))
        if strength:
            assert summary.unit == "nats per pixel of the prior's grid, calibrated to average healthy tissue"
            assert summary.thresholds.calibration == expected.describe()
        else:
            assert summary.unit == "nats per pixel of the prior's grid, not calibrated"
            assert summary.thresholds.calibration == {"null": "none", "strength": 0.0, "sharp": sharp}


@pytest.mark.parametrize("order", permutations(range(3)))
def test_slices_are_counted_along_the_axis_that_they_were_scored_along(order, reference):
    affine = torch.from_numpy(np.diag([-2.0, -2.0, 5.0, 1.0])[:, [*order, 3]])
    meta = {"name": "t", "format": "nifti", "series_uid": "", "repairs": ""}
    about = {"sha256": "", "labels": "", "absent": 0, "names": "", "share_inside": 1.0, "share_scored": 1.0}
    for slices, is_long in ((40, True), (5, False)):
        values = torch.zeros(1, *((20, 18, slices)[axis] for axis in order))
        volume, heat, marked = (MetaTensor(values, affine=affine, meta=meta) for _ in range(3))
        said = " ".join(summarize(Case(volume, heat, marked, 0.2, reference, PROVENANCE)).remarks)
        assert ("got 40 slices, the reference's healthy scans have 4" in said) == is_long
        assert ("p is too small" in said) == is_long
        region = values.bool()
        region[:, :3, :3, :3] = True
        region.select(1 + order.index(2), 0)[:] = False
        assert Region.of(MetaTensor(region, affine=affine, meta=about)).slices == 2


def in_memory(path, *, channel: bool = True) -> MetaTensor:
    """The scan as a host hands it over: integers, its affine, and whatever it found in the headers."""
    image = nib.load(path)
    values = torch.from_numpy(np.asarray(image.dataobj).astype(np.int16))
    meta = {"original_affine": image.affine, "space": "RAS", "patient_name": "Somebody"}
    return MetaTensor(values[None] if channel else values, affine=torch.from_numpy(image.affine), meta=meta)


@pytest.mark.parametrize("channel", [False, True])
def test_a_volume_in_memory_scores_like_its_file(small_ct, inferer, channel):
    score = Compose([LoadSeriesd("image"), KLIPScored("image", scorer=Scorer(Prior(), inferer, grid=GRID))])
    from_file, from_memory = score({"image": small_ct}), score({"image": in_memory(small_ct, channel=channel)})
    torch.testing.assert_close(from_memory["heatmap"].as_tensor(), from_file["heatmap"].as_tensor())
    torch.testing.assert_close(from_memory["heatmap"].affine, from_file["heatmap"].affine)
    meta = from_memory["image"].meta
    assert meta["name"].startswith("ct-")
    assert (meta["format"], meta["series_uid"]) == ("memory", "")
    assert set(meta) == set(from_file["image"].meta)  # nothing of the host's headers goes on


def test_a_volume_in_memory_of_unknown_place_is_refused(small_ct):
    volume = in_memory(small_ct)
    load = LoadSeriesd("image")
    for unplaced in (volume.numpy(), volume.as_tensor(), MetaTensor(volume.as_tensor())):
        with pytest.raises(InputError, match="affine"):
            load({"image": unplaced})
    lost = MetaTensor(volume.as_tensor(), meta={"original_affine": volume.affine.numpy()})
    with pytest.raises(InputError, match="got no affine"):
        load({"image": lost})
    volume.meta["space"] = "LPS"
    with pytest.raises(InputError, match="to LPS, expected"):
        load({"image": volume})


def test_a_volume_in_memory_passes_the_checks_of_a_file(small_ct):
    volume = in_memory(small_ct)
    with pytest.raises(InputError, match="not HU"):
        LoadSeriesd("image")({"image": (volume + 1024) / 3000.0})
    with pytest.raises(InputError, match="NaN"):
        LoadSeriesd("image")({"image": volume.float() * float("nan")})
    with pytest.raises(InputError, match="at least 3 voxels"):
        LoadSeriesd("image")({"image": volume[..., :2]})
    with pytest.raises(InputError, match=r"expected \(X, Y, Z\)"):
        LoadSeriesd("image")({"image": torch.cat([volume, volume])})
    with pytest.raises(InputError, match="series_uid"):
        LoadSeriesd("image", series_uid="1.2.3")({"image": volume})


def test_a_batch_of_one_scan_is_that_of_monai_without_copies():
    volume = MetaTensor(
        torch.rand(1, 4, 5, 6), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])), meta={"name": "a"},
        applied_operations=[{"class": "X", "id": 3}],
    )  # fmt: skip
    scan = {"image": volume[:, ::2], "source": volume, "body": torch.rand(1, 4, 5, 6) > 0.5, "path": "x"}
    ours, theirs = one_scan([scan]), list_data_collate([scan])
    assert ours.keys() == theirs.keys()
    for found in (ours, decollate_batch(ours)[0]):
        for key in ("image", "source", "body"):
            assert found[key].data_ptr() == scan[key].data_ptr()
    for one, other in zip((ours, decollate_batch(ours)[0]), (theirs, decollate_batch(theirs)[0]), strict=True):
        for key in ("image", "source", "body"):
            assert torch.equal(one[key], other[key])
        assert torch.equal(one["source"].affine, other["source"].affine)
        assert one["source"].applied_operations == other["source"].applied_operations
        assert one["source"].meta["name"] == other["source"].meta["name"]
    with pytest.raises(ValueError, match="scans: got 2 in a batch, expected one"):
        one_scan([scan, scan])
