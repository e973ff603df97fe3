from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from klip_monai.errors import InputError
from klip_monai.standard import PriorGrid, standard_slices
from klip_monai.training import fill_clipped, picture_groups, read_picture, scan_groups

SIDE = 128
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5


def torso() -> np.ndarray:
    """HU of an oval of fat with a wall of muscle, a liver on the patient's right (left of the picture), and a table."""
    oval = np.hypot(COLUMNS / 1.3, ROWS)
    hu = np.full((SIDE, SIDE), -1000.0)
    hu[oval < 42] = -100.0
    hu[(oval < 38) & (oval > 31)] = 50.0
    hu[np.hypot(COLUMNS + 18, ROWS) < 14] = 110.0
    hu[(ROWS > 50) & (ROWS < 53)] = 200.0
    return hu


def grey(hu: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round((hu + 160) / 400 * 255), 0, 255).astype(np.uint8))


def write_manifest(folder: Path, lines: list[str]) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(["file,source,group,split,pixel_mm", *lines]) + "\n")
    return path


def test_a_picture_keeps_its_hu_and_its_sides(tmp_path):
    grey(torso()).save(tmp_path / "a.png")
    volume = read_picture(tmp_path / "a.png", pixel_mm=2.0)
    slices = standard_slices(volume, PriorGrid((SIDE, SIDE), 2.0, body_hu=-140.0))
    hu = (slices.images[0, 0].numpy() + 1) * 200 - 160
    centre = ndimage.center_of_mass(np.abs(hu - 110) < 2)
    assert centre[1] < SIDE / 2 - 10, "the liver stays at the left of the picture"
    assert np.median(hu[np.abs(hu - 110) < 5]) == pytest.approx(110, abs=1)
    body = slices.body[0, 0].numpy()
    assert body.sum() == pytest.approx((np.hypot(COLUMNS / 1.3, ROWS) < 42).sum(), rel=0.02), "without the table"


def test_clipped_fat_and_air_are_told_apart():
    hu = torso()
    filled = fill_clipped(np.maximum(hu, 0).astype(np.float32), clip_hu=0.0, pixel_mm=2.0)
    oval = np.hypot(COLUMNS / 1.3, ROWS)
    assert (filled[(oval < 30) & (hu == -100)] == -100).all()
    assert (filled[oval > 39] == -160).all(), "fat under the skin cannot be told from air and the table is gone"
    assert (filled[hu == 110] == 110).all()


def test_groups_keep_their_split_and_their_clipping(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        grey(torso()).save(tmp_path / name)
    manifest = write_manifest(tmp_path, ["a.png,one,p1,train,1.5", "b.png,one,p1,train,", "c.png,two,p2,val,"])
    first, second = picture_groups(manifest, clipped={"two": 0.0}, pixel_mm=1.7)
    assert (first.name, first.split, first.clip_hu) == ("p1", "train", None)
    assert (second.name, second.split, second.clip_hu) == ("p2", "val", 0.0)
    spacings = [np.linalg.norm(np.asarray(volume.affine)[:3, 0]) for volume in first.volumes()]
    assert spacings == [1.5, 1.7]


def test_a_table_of_splits_counts_instead_of_the_manifests(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        grey(torso()).save(tmp_path / name)
    manifest = write_manifest(tmp_path, [f"{name}.png,one,range,train," for name in "abc"])
    (tmp_path / "splits.csv").write_text("file,group,split\na.png,p1,train\nb.png,p2,val\n")
    groups = picture_groups(manifest, clipped={}, pixel_mm=1.5, splits=tmp_path / "splits.csv")
    assert [(g.name, g.split, len(list(g.volumes()))) for g in groups] == [("p1", "train", 1), ("p2", "val", 1)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.png,one,p1,train,", "a.png,one,p1,val,"], r"group p1 is in \['train', 'val'\], expected one split"),
        (["missing.png,one,p1,train,"], r"missing.png \(1 in group p1\) is missing"),
        ([], "got no column file, source, group, split"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(tmp_path, lines, message):
    grey(torso()).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        picture_groups(write_manifest(tmp_path, lines), clipped={}, pixel_mm=1.5)


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"picture a\.png: cannot be read"):
        read_picture(tmp_path / "a.png", pixel_mm=1.5)


def test_the_split_of_a_scan_follows_from_its_name_alone(tmp_path):
    for number in range(200):
        (tmp_path / f"scan{number}").mkdir()
    before = {group.name: group.split for group in scan_groups(tmp_path, held_out=0.2)}
    assert 20 < sum(split == "val" for split in before.values()) < 60
    (tmp_path / "another").mkdir()
    after = {group.name: group.split for group in scan_groups(tmp_path, held_out=0.2)}
    assert before.items() < after.items()


def test_an_empty_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match="archive: got the empty folder"):
        scan_groups(tmp_path, held_out=0.1)
