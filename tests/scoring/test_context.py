"""The null by surroundings: what it sees, what it does not, and what it learns from healthy scans."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from klip_monai.bundle import find_reference
from klip_monai.errors import BundleError, InputError
from klip_monai.scoring import ContextNull, HealthyScan, IDReference, Places, with_sharp
from klip_monai.scoring.surroundings import FEATURES, Boxes, surroundings

SHAPE, PIXEL_MM = (64, 64), 3.0


def body(count: int = 1, shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    return (rows**2 + columns**2 < 0.9)[None, None].expand(count, 1, *shape)


def described(images: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    left = torch.ones(len(images))
    return surroundings(images, body(len(images)), density, pixel_mm=PIXEL_MM, noise_left=left)


def healthy(seed: int, *, slices: int = 30, left: float = 1.0) -> HealthyScan:
    """Density follows how bright the tissue around is, and falls with what is left of the noise."""
    rng = np.random.default_rng(seed)
    bright = torch.from_numpy(rng.uniform(-0.6, 0.6, (slices, 1, 1, 1)).astype(np.float32))
    inside = body(slices)
    images = torch.where(inside, bright.expand(-1, 1, *SHAPE), -1.0)
    grain = torch.from_numpy(rng.lognormal(0, 0.2, images.shape).astype(np.float32))
    density = torch.exp(2 * bright) * grain * left
    return HealthyScan(images, inside, inside, density, torch.full((slices,), left))


@pytest.fixture(scope="module")
def null() -> ContextNull:
    scans = [healthy(seed, left=left) for seed in range(6) for left in (1.0, 0.25)]
    return ContextNull.fit(scans, pixel_mm=PIXEL_MM, strength=1.0)


@pytest.mark.parametrize(("away_mm", "of"), [(0, "picture"), (6, "picture"), (0, "density"), (18, "density")])
def test_a_place_is_no_part_of_its_surroundings(away_mm, of):
    flat = torch.where(body(), 0.0, -1.0), torch.full((1, 1, *SHAPE), 0.1)
    changed = [values.clone() for values in flat]
    row, column = 32, 32 + round(away_mm / PIXEL_MM)
    changed[of == "density"][..., row, column] = 0.9
    before, after = described(*flat), described(*changed)
    blind = [*range(FEATURES)]
    if of == "density":
        blind.remove(FEATURES - 2)  # the mean of the whole slice
    torch.testing.assert_close(after[0, blind, 32, 32], before[0, blind, 32, 32])
    assert (after[0, :, 32, 18 if of == "picture" else 16] != before[0, :, 32, 18 if of == "picture" else 16]).any()


def test_slices_are_described_one_by_one():
    images = torch.where(body(3), torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0)), -1.0)
    density = torch.rand(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    together = described(images, density)
    assert together.shape == (3, FEATURES, *SHAPE)
    assert torch.equal(together[1:2], described(images[1:2], density[1:2]))


def test_surroundings_of_finer_pixels_are_taken_on_a_grid_of_three_millimetres():
    images, density = torch.zeros(1, 1, 128, 128), torch.ones(1, 1, 128, 128)
    inside = body(shape=(128, 128))
    found = surroundings(images, inside, density, pixel_mm=1.5, noise_left=torch.ones(1))
    assert found.shape == (1, FEATURES, 64, 64)


def test_a_slice_without_a_body_is_described_all_the_same():
    nothing = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    found = surroundings(
        torch.full((1, 1, *SHAPE), -1.0), nothing, torch.zeros(1, 1, *SHAPE), pixel_mm=3.0, noise_left=torch.ones(1)
    )
    assert bool(found.isfinite().all())


def test_healthy_tissue_comes_out_even_where_its_surroundings_told_what_to_expect(null):
    scan = healthy(77)
    heat = null.heatmap(scan.density, scan.images, body=scan.body, noise_left=scan.noise_left)
    means = [float(heat[z][scan.body[z]].mean()) for z in range(len(heat))]
    before = [float(scan.density[z][scan.body[z]].mean()) for z in range(len(heat))]
    assert np.std(np.log(means)) < 0.2 * np.std(np.log(before))


def test_what_is_left_of_the_noise_is_taken_off_too(null):
    level = {
        left: float(null.heatmap(s.density, s.images, body=s.body, noise_left=s.noise_left)[s.body].log().mean())
        for left, s in ((left, healthy(78, left=left)) for left in (1.0, 0.25))
    }
    assert abs(level[1.0] - level[0.25]) < 0.25 * np.log(4)


def test_a_lesion_stands_out_as_much_as_before(null):
    scan = healthy(79)
    ill = scan.density.clone()
    ill[10, 0, 30:33, 30:33] *= 5
    maps = [
        null.heatmap(density, scan.images, body=scan.body, noise_left=scan.noise_left)
        for density in (scan.density, ill)
    ]
    gain = (maps[1] / maps[0])[10, 0, 31, 31]
    assert float(gain) == pytest.approx(5, rel=0.15)


def test_a_slice_gets_the_same_bits_alone_as_among_others(null):
    scan = healthy(82, slices=5)
    body = scan.body.clone()
    body[1:, ..., :40] = False  # bodies of two sizes
    body[3] = False
    body[3, 0, 30, 30:32] = True  # and one of two pixels
    seen = {"images": scan.images, "body": body, "noise_left": scan.noise_left}
    together = null.heatmap(scan.density, **seen)
    for n in range(5):
        alone = null.heatmap(scan.density[n : n + 1], **{name: values[n : n + 1] for name, values in seen.items()})
        assert torch.equal(alone[0], together[n])


def test_beside_the_body_contrast_alone_counts(null):
    scan = healthy(83, slices=3)
    body = scan.body.clone()
    body[..., 30:] = False
    heat = null.heatmap(scan.density, scan.images, body=body, noise_left=scan.noise_left)
    by_contrast = null.contrast.heatmap(scan.density, scan.images)
    torch.testing.assert_close(heat[..., 1:, 31:], by_contrast[..., 1:, 31:])
    assert (heat[..., 20:40, 30] != by_contrast[..., 20:40, 30]).any(), "places beside the edge are interpolated from"


@pytest.mark.parametrize("reach", [0, 2, 7])
def test_sums_over_boxes_are_those_of_their_pixels(reach):
    values = torch.rand(2, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(values.double(), (reach,) * 4)
    windows = padded.unfold(2, 2 * reach + 1, 1).unfold(3, 2 * reach + 1, 1)
    torch.testing.assert_close(Boxes(values, reach=7).within(reach), windows.sum(dim=(-1, -2)).float())


def test_strength_zero_changes_nothing(null):
    scan = healthy(80, slices=3)
    idle = replace(null, contrast=replace(null.contrast, strength=0.0))
    heat = idle.heatmap(scan.density, scan.images, body=scan.body, noise_left=scan.noise_left)
    torch.testing.assert_close(heat, scan.density)


def test_the_larger_of_both_counts_where_all_frequencies_compete(null):
    scan = healthy(81, slices=2)
    plain = null.heatmap(scan.density, scan.images, body=scan.body, noise_left=scan.noise_left)
    both = torch.cat([scan.density, torch.full_like(scan.density, 0.5)], dim=1)
    heat = replace(null, sharp=2.0).heatmap(both, scan.images, body=scan.body, noise_left=scan.noise_left)
    torch.testing.assert_close(heat, plain.clamp_min(1.0))


def test_each_person_is_matched_by_the_others(null):
    rng = np.random.default_rng(3)
    calibrated, sharp = ([rng.gamma(2.0, 1.0, 4000) for _ in range(3)] for _ in range(2))
    sharp[2] *= 10
    matched, maps = with_sharp(null, calibrated, sharp, [0, 1, 2])
    others = np.quantile(np.concatenate(calibrated[:2]), 0.999) / np.quantile(np.concatenate(sharp[:2]), 0.999)
    np.testing.assert_allclose(maps[2], np.maximum(calibrated[2], sharp[2] * others))
    assert matched.sharp < others


def test_it_comes_back_from_its_files_the_same(null, tmp_path):
    values = [np.random.default_rng(n).gamma(2.0, 1.0, 500) for n in range(3)]
    inside = np.ones((5, 10, 10), bool)
    made = IDReference.from_calibrated(
        values,
        expected=null,
        settings={"a": 1},
        slices=5,
        description="made up",
        patients=[0, 1, 2],
        places=[Places(inside, 1.0)] * 3,
    )
    made.save(tmp_path / "one.json")
    read = IDReference.load(tmp_path / "one.json")
    assert json.dumps(read.describe()) == json.dumps(made.describe())
    scan = healthy(82, slices=3)
    seen = {"body": scan.body, "noise_left": scan.noise_left}
    assert torch.equal(
        read.expected.heatmap(scan.density, scan.images, **seen), null.heatmap(scan.density, scan.images, **seen)
    )


def test_another_network_beside_a_reference_is_refused(null, tmp_path):
    values = [np.random.default_rng(n).gamma(2.0, 1.0, 500) for n in range(3)]
    options = {"expected": null, "settings": {}, "slices": 1, "description": "", "patients": [0, 1, 2]}
    IDReference.from_calibrated(values, **options).save(tmp_path / "one.json")
    other = ContextNull.fit([healthy(5, slices=120)], pixel_mm=PIXEL_MM, strength=1.0)
    other.save(tmp_path / "one.null.safetensors")
    with pytest.raises(BundleError, match="not the network"):
        IDReference.load(tmp_path / "one.json")
    (tmp_path / "one.null.safetensors").unlink()
    with pytest.raises(BundleError):
        IDReference.load(tmp_path / "one.json")


def test_scores_can_be_read_without_the_network(null, tmp_path):
    values = [np.random.default_rng(n).gamma(2.0, 1.0, 500) for n in range(3)]
    options = {"expected": null, "settings": {"a": 1}, "slices": 1, "description": "", "patients": [0, 1, 2]}
    made = IDReference.from_calibrated(values, **options)
    made.save(tmp_path / "one.json", scores_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    read = IDReference.load(tmp_path / "one.json", scores_only=True)
    assert (read.scan_scores, read.describe()) == (made.scan_scores, made.describe())


def test_a_damaged_reference_does_not_stop_other_settings(null, tmp_path):
    values = [np.random.default_rng(n).gamma(2.0, 1.0, 500) for n in range(3)]
    options = {"slices": 1, "description": "", "patients": [0, 1, 2]}
    IDReference.from_calibrated(values, expected=null, settings={"a": 1}, **options).save(
        tmp_path / "0.json", scores_only=True
    )
    IDReference.from_calibrated(values, expected=null.contrast, settings={"b": 1}, **options).save(tmp_path / "1.json")
    assert find_reference(tmp_path, {"b": 1}).scan_scores
    with pytest.raises(BundleError, match=r"0\.null\.safetensors"):
        find_reference(tmp_path, {"a": 1})


def test_no_file_of_another_name_is_written_over(null, tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")
    values = [np.random.default_rng(n).gamma(2.0, 1.0, 500) for n in range(3)]
    options = {"expected": null, "settings": {}, "slices": 1, "description": "", "patients": [0, 1, 2]}
    IDReference.from_calibrated(values, **options).save(tmp_path / "model.json")
    assert (tmp_path / "model.safetensors").read_text() == "weights"


def test_too_few_healthy_places_are_refused():
    with pytest.raises(InputError, match="--null contrast"):
        ContextNull.fit([healthy(0, slices=3)], pixel_mm=PIXEL_MM, strength=1.0)


def test_the_same_scans_and_seed_fit_the_same_network():
    first, second = (ContextNull.fit([healthy(1, slices=100)], pixel_mm=PIXEL_MM, strength=0.5) for _ in range(2))
    assert first.describe() == second.describe()
