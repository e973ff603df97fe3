from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from klip_monai.errors import InputError
from klip_monai.report.preview import write_preview, write_sinogram_preview
from klip_monai.report.shown import Shown

SHAPE = (48, 40, 20)
AFFINE = np.array([[-4.0, 0, 0, 94], [0, -4.0, 0, 78], [0, 0, 8.0, -76], [0, 0, 0, 1.0]])


def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    ct = np.where((((grid[..., :2] - [24, 20]) / [18, 14]) ** 2).sum(-1) < 1, 40.0, -1000.0)
    heatmap = 0.1 * np.exp(-((grid - [14, 20, 12]) ** 2).sum(-1) / 12.0)
    return ct, heatmap, (heatmap > 0.03).astype(np.uint8) + (heatmap > 0.06)


def draw(path: Path, *, affine: np.ndarray = AFFINE, **changes: Any) -> np.ndarray:
    ct, heatmap, labels = scan()
    values = {"volume_hu": ct, "heatmap": heatmap, "labels": labels, **changes}
    scale = values.pop("scale", (0.0, 0.1))
    arrays = (values[name] for name in ("volume_hu", "heatmap", "labels"))
    write_preview(
        path,
        Shown(*arrays, affine, scale, places=values.get("places", ())),
        title="Synthetic",
        thresholds=(0.03, 0.06),
        lines=["Scan score 0.1 nats per pixel"],
    )
    return imread(path)[..., :3]


def coloured(picture: np.ndarray) -> np.ndarray:
    """Pixels of the first axial cell that are green, as only the heat map is."""
    rows, columns = picture.shape[:2]
    cell = picture[int(0.15 * rows) : int(0.45 * rows), int(0.06 * columns) : int(0.30 * columns)]
    return (cell[..., 1] > cell[..., 2] + 0.15) & (cell[..., 1] > cell[..., 0] + 0.03)


def test_blob_at_patient_right_is_painted_at_picture_left(tmp_path: Path) -> None:
    # Voxel 14 of 48 along an axis that runs from patient right to left.
    painted = np.nonzero(coloured(draw(tmp_path / "p.png")))[1]
    mirrored = np.nonzero(coloured(draw(tmp_path / "m.png", affine=AFFINE @ np.diag([-1.0, 1, 1, 1]))))[1]
    assert painted.size > 50
    width = coloured(imread(tmp_path / "p.png")[..., :3]).shape[1]
    assert painted.mean() < 0.45 * width
    assert mirrored.mean() > 0.55 * width


def test_value_keeps_its_colour_whatever_else_is_in_the_scan(tmp_path: Path) -> None:
    _, heatmap, labels = scan()
    weak = draw(tmp_path / "w.png", heatmap=0.2 * heatmap, labels=0 * labels)
    assert coloured(draw(tmp_path / "s.png")).sum() > 50
    assert coloured(weak).sum() == 0


def test_a_place_is_numbered_beside_what_is_outlined_there(tmp_path: Path) -> None:
    peak = (AFFINE @ [14, 20, 12, 1])[:3]
    plain, numbered = draw(tmp_path / "p.png"), draw(tmp_path / "n.png", places=[peak])
    rows, columns = plain.shape[:2]
    cell = slice(int(0.08 * rows), int(0.51 * rows)), slice(int(0.02 * columns), int(0.33 * columns))
    changed = np.nonzero(np.abs(plain - numbered)[cell].max(axis=-1) > 0.1)
    blob = np.nonzero(coloured(plain))
    assert 20 < changed[0].size < 800
    below, left = int(0.15 * rows) - cell[0].start, int(0.06 * columns) - cell[1].start
    assert changed[0].mean() < blob[0].mean() + below
    assert changed[1].mean() > blob[1].mean() + left


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    draw(tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize("shape", [(48, 40, 1), (1, 40, 20), (2, 2, 2)])
def test_thin_and_empty_scans_are_drawn(shape: tuple[int, int, int], tmp_path: Path) -> None:
    empty = np.zeros(shape)
    picture = draw(tmp_path / "p.png", volume_hu=empty - 1000, heatmap=empty, labels=empty + (shape == (2, 2, 2)))
    assert picture.std() > 0.02


def test_oblique_scan_is_drawn_and_marked(tmp_path: Path) -> None:
    c, s = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    straight, oblique = draw(tmp_path / "s.png"), draw(tmp_path / "o.png", affine=turn @ AFFINE)
    heading = slice(0, int(0.06 * straight.shape[0]))
    assert np.count_nonzero(oblique[heading] > 0.3) > np.count_nonzero(straight[heading] > 0.3)


def test_arrays_of_different_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got shapes \(48, 40, 20\), \(2, 2, 2\)"):
        draw(tmp_path / "p.png", heatmap=np.zeros((2, 2, 2)))


@pytest.mark.parametrize("scale", [(0.1, 0.1), (0.2, 0.1), (0.0, np.nan)])
def test_scale_that_does_not_rise_is_refused(scale: tuple[float, float], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^scale: got"):
        draw(tmp_path / "p.png", scale=scale)


@pytest.mark.parametrize("peak", [0.0, 0.4])
def test_a_sinogram_preview_shows_four_pictures_and_colours_only_where_the_map_is(tmp_path, peak):
    slices = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    heatmap = np.zeros((32, 32), np.float32)
    heatmap[8:12, 20:24] = peak
    pictures = []
    for name in ("a.png", "b.png"):
        write_sinogram_preview(
            tmp_path / name,
            np.ones((7, 45), np.float32),
            least_squares=slices,
            reconstruction=slices,
            heatmap=heatmap,
            pixel_mm=3.0,
            title="Synthetic",
            lines=["a statement that is long enough to be wrapped " * 6],
        )
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    picture = imread(tmp_path / "a.png")[..., :3]
    coloured = np.ptp(picture[: picture.shape[0] // 2], axis=2) > 0.25
    places = np.nonzero(coloured[:, 3 * picture.shape[1] // 4 :])
    assert bool(coloured.any()) == (peak > 0)
    assert len(places[0]) == coloured.sum()
