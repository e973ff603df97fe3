from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.utils.data import DataLoader

from klip_monai.errors import InputError
from klip_monai.phantom import random_scan
from klip_monai.standard import PriorGrid, standard_slices
from klip_monai.training import (
    Group,
    ResidentSlices,
    SeededBatchSampler,
    SliceSet,
    read_manifest,
    scan_groups,
    write_slice_set,
)

GRID = PriorGrid((64, 64), 6.0, body_hu=-140.0)


def group(name: str, *, split: str = "train", slices: int = 3) -> Group:
    def volumes() -> Iterator[MetaTensor]:
        yield random_scan(len(name), slices=slices).image

    return Group(name, "phantoms", split, None, volumes)


def broken() -> Group:
    def volumes() -> Iterator[MetaTensor]:
        raise InputError("series 1: got MR, expected CT")
        yield

    return Group("broken", "phantoms", "train", None, volumes)


def test_slices_come_back_as_they_were_made(tmp_path):
    groups = [group("a"), group("bb", slices=4), group("ccc", split="val")]
    assert write_slice_set(groups, tmp_path, grid=GRID) == []
    train = SliceSet(tmp_path, split="train", grid=GRID)
    assert len(train) == 7
    expected = torch.cat([standard_slices(v, GRID).images for g in groups[:2] for v in g.volumes()])
    got = torch.stack([train[i]["image"] for i in range(len(train))])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    assert [train.group_of(i).group for i in (0, 2, 3, 6)] == ["a", "a", "bb", "bb"]
    assert len(SliceSet(tmp_path, split="val")) == 3
    assert len(SliceSet(tmp_path, groups=["bb"])) == 4


def test_the_manifest_has_the_hash_of_every_file(tmp_path):
    write_slice_set([group("a"), group("bb", split="val")], tmp_path, grid=GRID)
    for line in read_manifest(tmp_path):
        assert hashlib.sha256((tmp_path / line.file).read_bytes()).hexdigest() == line.sha256


def test_one_bad_scan_is_left_out_with_its_reason(tmp_path):
    assert write_slice_set([broken(), group("a")], tmp_path, grid=GRID) == ["broken: series 1: got MR, expected CT"]
    assert [line.group for line in read_manifest(tmp_path)] == ["a"]
    with pytest.raises(InputError, match="none of 1 groups could be read, first: broken: series 1"):
        write_slice_set([broken()], tmp_path / "other", grid=GRID)


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(tmp_path):
    write_slice_set([group("a")], tmp_path, grid=GRID)

    def fail() -> Iterator[MetaTensor]:
        raise AssertionError("read again")
        yield

    write_slice_set([Group("a", "phantoms", "train", None, fail), group("bb")], tmp_path, grid=GRID)
    assert [line.group for line in read_manifest(tmp_path)] == ["a", "bb"]


def test_what_the_source_clipped_away_has_no_weight(tmp_path):
    def volumes() -> Iterator[MetaTensor]:
        hu = np.full((64, 64, 3), -160.0, dtype=np.float32)
        hu[8:56, 8:56] = -100.0  # filled in
        hu[20:40, 20:40] = 60.0
        yield MetaTensor(torch.from_numpy(hu)[None], affine=torch.diag(torch.tensor([6.0, 6.0, 5.0, 1.0])))

    write_slice_set([Group("a", "clipped", "train", 0.0, volumes)], tmp_path, grid=GRID)
    item = SliceSet(tmp_path)[1]
    fat = (item["image"] > -0.8) & (item["image"] < -0.6)
    assert int(fat.sum()) > 1000
    assert not item["weight"][fat].any()
    assert item["weight"][item["image"] > 0].all()
    assert not item["weight"][item["image"] == -1].any(), "fat and air are one value in such a source"
    faint = SliceSet(tmp_path, filled_weight=0.2)
    assert torch.equal(faint[1]["weight"], item["weight"].clamp_min(0.2))
    assert torch.equal(faint.stacked([1])[1], SliceSet(tmp_path).stacked([1])[1]), "its HU stay unknown"


def test_resident_slices_give_the_batches_that_a_data_loader_gives(tmp_path):
    kept = group("bb", slices=4)
    clipped = Group("clipped", "clipped", "train", 0.0, kept.volumes)
    write_slice_set([group("a"), clipped], tmp_path, grid=GRID)
    data = SliceSet(tmp_path, split="train", filled_weight=0.2)

    def sampler() -> SeededBatchSampler:
        return SeededBatchSampler(data, batch_size=3, seed=1)

    resident = ResidentSlices(data, sampler(), device="cpu")
    loader = DataLoader(data, batch_sampler=sampler())
    assert len(resident) == len(loader) == 2
    for batch, expected in islice(zip(resident, loader, strict=False), 5):
        assert batch.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(batch[key], value, rtol=0, atol=0)
    assert {float(weight) for weight in batch["weight"].unique()} <= {float(torch.tensor(0.2)), 1.0}
    assert (data.lowest_known() > -1).tolist() == [False] * 3 + [True] * 4


def test_balanced_weights_draw_groups_by_the_root_of_their_slices(tmp_path):
    write_slice_set([group("a", slices=4), group("bb", slices=9)], tmp_path, grid=GRID)
    weights = np.array(SliceSet(tmp_path).balanced_weights())
    assert weights[:4].sum() == pytest.approx(2)
    assert weights[4:].sum() == pytest.approx(3)


def test_another_slice_format_is_refused(tmp_path):
    write_slice_set([group("a")], tmp_path, grid=GRID)
    other = PriorGrid((32, 32), 12.0)
    with pytest.raises(InputError, match="expected PriorGrid"):
        SliceSet(tmp_path, grid=other)
    with pytest.raises(InputError, match="made for another slice format"):
        write_slice_set([group("a")], tmp_path, grid=other)
    with pytest.raises(InputError, match="no group with split 'test'"):
        SliceSet(tmp_path, split="test")
    with pytest.raises(InputError, match=r"no readable manifest\.csv .*`klip-monai prepare`"):
        SliceSet(tmp_path / "nowhere")


def test_an_archive_of_scans_becomes_a_set(tmp_path: Path):
    archive = tmp_path / "archive"
    archive.mkdir()
    for seed in range(3):
        scan = random_scan(seed, slices=4).image
        nib.save(nib.Nifti1Image(scan[0].numpy(), np.asarray(scan.affine)), archive / f"{seed}.nii.gz")
    (archive / "notes.txt").write_text("not a scan")
    refused = write_slice_set(scan_groups(archive, held_out=0.0), tmp_path / "set", grid=GRID)
    assert len(refused) == 1
    assert refused[0].startswith("notes.txt: ")
    assert len(SliceSet(tmp_path / "set", split="train", grid=GRID)) == 12


def test_stacked_slices_count_only_pixels_of_the_body_that_the_source_kept(tmp_path):
    def group(name: str, clip_hu: float | None) -> Group:
        return Group(name, "phantoms", "train", clip_hu, lambda: iter([random_scan(1, slices=3).image]))

    write_slice_set([group("whole", None), group("clipped", 0.0)], tmp_path, grid=GRID)
    whole, clipped = (SliceSet(tmp_path, groups=[name]).stacked([0, 2]) for name in ("whole", "clipped"))
    low, high = GRID.hu_window
    known = whole[0] >= -low / (high - low) * 2 - 1
    assert torch.equal(whole[0], clipped[0])
    assert torch.equal(clipped[1], whole[1] & known)
    assert 0 < int(clipped[1].sum()) < int(whole[1].sum())


def test_splits_can_be_joined_and_clipped_sources_left_out(tmp_path):
    clipped = Group("clipped", "others", "val", 0.0, lambda: iter([random_scan(1, slices=3).image]))
    write_slice_set([group("a"), group("bb", split="val"), group("ccc", split="test"), clipped], tmp_path, grid=GRID)
    assert [g.group for g in SliceSet(tmp_path, split=["train", "val"]).groups] == ["a", "bb", "clipped"]
    assert [g.group for g in SliceSet(tmp_path, split="val", clipped=False).groups] == ["bb"]
    with pytest.raises(InputError, match="no unclipped group with split 'val'"):
        SliceSet(tmp_path, split="val", groups=["clipped"], clipped=False)
