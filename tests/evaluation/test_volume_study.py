from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from known_slices import KnownSlices
from monai.data import MetaTensor

from klip_monai.errors import BundleError, InputError
from klip_monai.evaluation import (
    HealthyVolume,
    SliceStack,
    VolumeStars,
    VolumeTumours,
    healthy_volumes,
    remembering,
    run_volume_study,
    save_volume_study,
    scores_by_settings,
)
from klip_monai.evaluation.volume_study import lesion_peaks, lesion_score
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer
from klip_monai.standard import PriorGrid
from klip_monai.training import Group, write_slice_set

GRID = PriorGrid((48, 48), 4.0, body_hu=-140.0)
KINDS = {"tumours": VolumeTumours(radius_mm=(10, 16)), "stars": VolumeStars(radius_mm=(10, 16))}


def stack(*, slices: int = 12, slice_mm: float = 5.0, seed: int = 0) -> SliceStack:
    """An organ of 60 HU with grain, in air."""
    axis = torch.arange(48) - 23.5
    body = (GRID.pixel_mm * torch.hypot(axis[:, None], axis) < 80).expand(slices, 1, 48, 48)
    grain = 5 * torch.randn(slices, 1, 48, 48, generator=torch.Generator().manual_seed(seed))
    return SliceStack(torch.where(body, (60 + grain + 160) / 200 - 1, -1.0), body, GRID, slice_mm)


def volumes(count: int = 2) -> list[HealthyVolume]:
    return [HealthyVolume(f"scan {n}", n, stack(seed=n), assumed=n > 0) for n in range(count)]


class CountingPrior:
    """A prior that counts the slices and levels it is asked about."""

    def __init__(self, prior: KnownSlices | GaussianDenoiser) -> None:
        self.prior, self.asked = prior, 0

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.prior(x, sigma)


def inferer(**settings) -> KLIPInferer:
    options = {"window_levels": 2, "sampler_levels": 0, "lowpass_px": 1.0, "smoothing_px": 1.0, "null": "none"}
    return KLIPInferer.of(Identity(GRID.image_shape), **options | settings)


def scores(prior) -> dict[str, Scorer]:
    return {
        "plane": Scorer(prior, inferer(), grid=GRID),
        "space": Scorer(prior, inferer(lowpass_z_mm=4.0, smoothing_z_mm=4.0), grid=GRID),
    }


def lesion() -> tuple[SliceStack, torch.Tensor]:
    scan = stack()
    _, mask = VolumeTumours(radius_mm=(14, 14))(scan, np.random.default_rng(0))
    return scan, mask


def test_a_perfect_map_gets_full_marks():
    scan, mask = lesion()
    heat = mask.float() + 0.01 * torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    result = lesion_score(heat, mask, scan.body)
    assert (result.image_level, result.average_precision, result.slice_level, result.found_first) == (1, 1, 1, True)
    assert lesion_peaks(heat, mask, scan)[0][1] == 1


def test_a_constant_map_gets_what_chance_gives():
    scan, mask = lesion()
    result = lesion_score(torch.ones(mask.shape), mask, scan.body)
    assert result.image_level == result.slice_level == 0.5
    assert result.average_precision == pytest.approx(float(mask.sum() / scan.body.sum()))
    assert not result.found_first


def test_what_lies_outside_of_the_body_does_not_count():
    scan, mask = lesion()
    result = lesion_score(mask.float() + 9.0 * ~scan.body, mask, scan.body)
    assert result.found_first
    assert result.average_precision == 1


def test_a_lesion_in_every_slice_has_no_slice_level_and_none_is_refused():
    scan, mask = lesion()
    ill = mask.flatten(1).any(dim=1)
    assert lesion_score(mask[ill].float(), mask[ill], scan.body[ill]).slice_level is None
    with pytest.raises(InputError, match="mask: got no lesion pixel"):
        lesion_score(mask.float(), torch.zeros_like(mask), scan.body)


def test_a_prior_that_knows_the_scans_finds_what_was_put_into_them(tmp_path):
    scans = volumes()
    prior = KnownSlices(torch.cat([scan.slices.images for scan in scans]), std=0.1)
    study = run_volume_study(scores(prior), scans, kinds=KINDS, lesions=3)
    assert len(study.lesions) == len(study.scores["plane"]) == 12
    assert [scan.lesions for scan in study.scans] == [6, 6]
    assert study.people == 2
    for kind in KINDS:
        for name in ("plane", "space"):
            every, *terciles = study.figures[kind][name]
            assert (every.lesions, [part.lesions for part in terciles]) == (6, [2, 2, 2])
            assert every.image_level.value > 0.97
            assert every.average_precision.value > 0.7 > every.prevalence
            assert every.found_first.value == 1
            assert every.found_at_one.value == 1
            assert terciles[0].high_mm <= terciles[1].low_mm
    assert all(6 < lesion.radius_mm < 17 and 2 <= lesion.slices <= 8 for lesion in study.lesions)

    save_volume_study(study, tmp_path, provenance={"bundle": "toy"})
    text = (tmp_path / "volume_study.md").read_text()
    assert "12 lesions, each alone in its copy of one of 2 scans of 2 people (seed 0)" in text
    assert "**In 1 of the scans the distance of the slices is not known and was taken for 5 mm**" in text
    assert "| scan 1 | 12 | 5 (assumed) | 6 |" in text
    assert text.count("| space | ") == 8
    written = json.loads((tmp_path / "volume_study.json").read_text())
    assert written["figures"]["stars"]["space"][0]["lesions"] == 6
    assert written["provenance"] == {"bundle": "toy"}


def test_a_prior_that_has_seen_nothing_like_it_hardly_tells_lesions_apart():
    prior = GaussianDenoiser(mean=-1.0, std=0.1)
    faint = {"faint": VolumeTumours(radius_mm=(10, 12), contrast_hu=(1, 2))}
    study = run_volume_study({"plane": scores(prior)["plane"]}, volumes(1), kinds=faint, lesions=4)
    assert study.figures["faint"]["plane"][0].found_first.value == 0
    assert study.figures["faint"]["plane"][0].image_level.low is None, "one person allows no interval"


def test_the_same_seed_gives_the_same_study_and_another_gives_other_lesions():
    prior = KnownSlices(torch.cat([scan.slices.images for scan in volumes(1)]), std=0.1)
    first, again, other = (
        run_volume_study(scores(prior), volumes(1), kinds=KINDS, lesions=1, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.lesions != other.lesions


@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("name", ["plane", "space"])
def test_remembered_passes_give_the_same_map(name, sharp):
    scan = stack()
    prior = CountingPrior(KnownSlices(scan.images, std=0.1))
    score = scores(prior)[name]
    score = Scorer(prior, score.inferer.changed(sharp=sharp), grid=GRID)
    ill, _ = VolumeTumours(radius_mm=(12, 12))(scan, np.random.default_rng(1))
    ill[0] = -1.0  # a slice of air
    expected = score.heatmap(ill, scan.body, slice_mm=5.0)
    healthy: dict = {}
    remembering(score, healthy).heatmap(scan.images, scan.body, slice_mm=5.0)
    known = len(healthy)
    memory = ChainMap({}, healthy)
    heat = remembering(score, memory).heatmap(ill, scan.body, slice_mm=5.0)
    assert torch.allclose(heat, expected, rtol=1e-4, atol=1e-6)
    assert len(healthy) == known == len(scan)
    asked = prior.asked
    again = remembering(score, memory).heatmap(ill, scan.body, slice_mm=5.0)
    assert prior.asked == asked, "no pass"
    assert torch.equal(again, heat)


def test_settings_that_read_the_same_moves_share_their_passes():
    def asked(**changes) -> int:
        prior = CountingPrior(KnownSlices(stack().images, std=0.1))
        both = {"one": Scorer(prior, inferer(), grid=GRID)}
        if changes:
            both["two"] = Scorer(prior, inferer(**changes), grid=GRID)
        run_volume_study(both, volumes(1), kinds=KINDS, lesions=1)
        return prior.asked

    alone = asked()
    assert asked(lowpass_z_mm=3.0, smoothing_z_mm=2.0, smoothing_px=2.0, skin_px=1.0) == alone
    assert asked(lowpass_px=2.0) == asked(seed=1) == 2 * alone


def test_a_bundle_s_score_is_made_under_each_setting_with_its_reference(tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"0")
    parts = {"network": GaussianDenoiser(), "inferer": inferer(), "grid": GRID, "weights": weights}
    made = scores_by_settings({"a": {}, "b": {"lowpass_z_mm": 3.0}}, **parts, id_references=tmp_path)
    assert [score.inferer.reading.lowpass_z_mm for score in made.values()] == [0.0, 3.0]
    assert all(score.reference is None for score in made.values())
    with pytest.raises(BundleError, match="none of the 0 in"):
        scores_by_settings({"c": {"null": "contrast"}}, **parts, id_references=tmp_path)


def group(seed: int, *, scan: bool) -> Group:
    def read() -> Iterator[MetaTensor]:
        yield random_scan(seed, slices=6, slice_mm=(5.0, 5.0)).image

    return Group(f"phantom {seed}", "phantoms", "test", None, read, is_scan=scan)


@pytest.fixture(scope="module")
def slice_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_slice_set([group(1, scan=True), group(2, scan=False), group(3, scan=True)], folder, grid=GRID)
    return folder


def test_groups_of_unknown_distance_are_left_out_unless_one_is_assumed(slice_set):
    known = list(healthy_volumes(slice_set, grid=GRID, split="test"))
    assert [(scan.name, scan.assumed) for scan in known] == [("phantom 1", False), ("phantom 3", False)]
    assert [scan.slices.slice_mm for scan in known] == pytest.approx([5.0, 5.0])
    every = healthy_volumes(slice_set, grid=GRID, assumed_mm=3.0, most_slices=3)
    assert len(every) == 3
    assert [(len(scan.slices), scan.assumed) for scan in every] == [(3, False), (3, True), (3, False)]
    assert torch.equal(next(iter(every)).slices.images, known[0].slices.images[1:4]), "the middle"


def test_volume_files_of_one_folder_are_scans(tmp_path):
    for seed, aside in ((1, 0.0), (2, 1.0)):
        image = random_scan(seed, slices=5, slice_mm=(5.0, 5.0)).image
        affine = np.diag([-2.0, -2.0, 5.0, 1.0])
        affine[1, 2] = aside  # a tilted gantry
        nib.save(nib.Nifti1Image(image[0].numpy().astype(np.int16), affine), tmp_path / f"{seed}.nii.gz")
    (only,) = healthy_volumes(tmp_path, grid=GRID)
    assert (only.name, len(only.slices), only.assumed) == ("1.nii.gz", 5, False)
    assert only.slices.slice_mm == pytest.approx(5.0)
    (tmp_path / "1.nii.gz").unlink()
    assert not list(healthy_volumes(tmp_path, grid=GRID))
    assert [scan.assumed for scan in healthy_volumes(tmp_path, grid=GRID, assumed_mm=5.0)] == [True]


def test_scans_that_are_not_there_and_impossible_numbers_are_refused(slice_set, tmp_path):
    with pytest.raises(InputError, match="got no such folder"):
        healthy_volumes(tmp_path / "none", grid=GRID)
    with pytest.raises(InputError, match="got an empty folder"):
        healthy_volumes(tmp_path, grid=GRID)
    with pytest.raises(InputError, match="most_slices: got 0"):
        healthy_volumes(slice_set, grid=GRID, most_slices=0)
    write_slice_set([group(2, scan=False)], tmp_path / "pictures", grid=GRID)
    with pytest.raises(InputError, match="got 1 groups of slices of unknown distance"):
        healthy_volumes(tmp_path / "pictures", grid=GRID)


def test_a_study_of_nothing_and_scores_of_other_slices_are_refused():
    one = {"one": Scorer(GaussianDenoiser(), inferer(), grid=GRID)}
    with pytest.raises(InputError, match="got 0 scores"):
        run_volume_study({}, volumes(1))
    with pytest.raises(InputError, match="and 0 lesions of each"):
        run_volume_study(one, volumes(1), lesions=0)
    with pytest.raises(InputError, match="scans: got none whose slices have a known distance"):
        run_volume_study(one, [])
    with pytest.raises(InputError, match="none of 1 has room"):
        run_volume_study(one, volumes(1), kinds={"huge": VolumeStars(radius_mm=(90, 90))}, lesions=1)
    other = {"other": Scorer(GaussianDenoiser(), inferer(), grid=PriorGrid((48, 48), 5.0))}
    with pytest.raises(InputError, match="score 'other': got one of PriorGrid"):
        run_volume_study(other, volumes(1))
