from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from klip_monai.errors import InputError
from klip_monai.evaluation import (
    SliceLabels,
    read_labelled_slices,
    run_labelled_slices_study,
    save_labelled_slices_study,
)
from klip_monai.evaluation.labelled_slices_study import figures_of
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer
from klip_monai.standard import PriorGrid

GRID = PriorGrid((64, 64), 3.0, body_hu=-140.0)
OPTIONS = {"grid": GRID, "pixel_mm": 3.0}
ORGAN, LESION, CYST = 1, 2, 3
SOURCES = {
    "whole": SliceLabels(lesion=(LESION,), organ=(ORGAN, LESION), ignore=(CYST,)),
    "clipped": SliceLabels(lesion=(LESION,), clip_hu=0.0),
}
FILES = {"whole/a0.png": "a", "whole/a1.png": "a", "whole/b0.png": "b", "clipped/c0.png": "c"}


def grey(hu: float) -> int:
    return round((hu + 160) / 400 * 255)


def picture(*, clipped: bool) -> np.ndarray:
    """A body of muscle in fat in air; a lesion, brighter, in its upper left."""
    rows, columns = np.ogrid[:64, :64]
    away = np.hypot(rows - 31.5, columns - 31.5)  # so that slices are centred where pictures are
    image = np.select([away < 22, away < 26], [grey(60), grey(-100)], 0)
    image[29:36, 36:44] = grey(-60)  # fat within
    image[20:26, 18:28] = grey(140)
    return (np.maximum(image, grey(0)) if clipped else image).astype(np.uint8)


def mask(*, lesion: bool = True) -> np.ndarray:
    labels = np.zeros((64, 64), np.uint8)
    labels[16:30, 14:34] = ORGAN
    labels[27:29, 30:33] = CYST
    labels[20:26, 18:28] = LESION if lesion else ORGAN
    return labels


def write_masks(folder, names, labels) -> None:
    np.savez_compressed(folder / "masks.npz", names=np.array(names), labels=labels)


@pytest.fixture
def folder(tmp_path):
    for file in FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(clipped=file.startswith("clipped"))).save(tmp_path / file)
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "source", "group", "pixel_mm"])
        writer.writerows([name, name.split("/")[0], person, ""] for name, person in FILES.items())
    # In another order than the manifest: masks go by name.
    names = list(FILES)[::-1]
    write_masks(tmp_path, names, np.stack([mask(lesion=name != "whole/a1.png") for name in names]))
    return tmp_path


def test_masks_lie_where_their_pictures_are_bright(folder):
    whole, clipped = read_labelled_slices(folder, SOURCES, **OPTIONS)
    assert whole.people == ("a", "a", "b")
    assert whole.lesion.flatten(1).sum(dim=1).tolist() == [60, 0, 60]
    for part in (whole, clipped):
        bright = (part.images > 0.4) & part.body  # above 120 HU
        marked = part.lesion[0]
        assert bool((bright[0] & marked).sum() >= 0.8 * marked.sum())
        assert not bool((bright[0] & ~marked).any())
    assert not bool((whole.lesion & ~whole.organ).any())


def test_what_a_source_clipped_or_is_ignored_does_not_count(folder):
    whole, clipped = read_labelled_slices(folder, SOURCES, **OPTIONS)
    within = (slice(0, 1), slice(0, 1), slice(31, 34), slice(38, 42))  # fat
    assert bool(whole.body[within].all())
    assert bool(whole.counted[within].all())
    assert bool(clipped.body[within].all())
    assert not bool(clipped.counted[within].any())
    # As in training, fat is what is filled in, so that the body goes on there.
    assert clipped.images[within].mean() == pytest.approx((-100 + 160) / 400 * 2 - 1, abs=0.02)
    assert clipped.counted.sum() < whole.counted[:1].sum()
    assert not bool(clipped.organ.any())
    cyst = (slice(None), slice(None), slice(27, 29), slice(30, 33))
    assert not bool(whole.counted[cyst].any())


def test_a_map_of_the_lesions_gets_full_marks_and_its_mirror_image_does_not(folder):
    whole, clipped = read_labelled_slices(folder, SOURCES, **OPTIONS)
    best = figures_of(whole.lesion.float(), whole, score="perfect")
    assert best.in_body.value == best.in_organ.value == best.average_precision.value == 1
    assert best.organ_average_precision.value == 1
    assert (best.slices, best.lesion_slices) == (3, 2)
    assert [(one.person, one.slices, one.lesion_slices, one.in_body) for one in best.people] == [
        ("a", 2, 1, 1.0),
        ("b", 1, 1, 1.0),
    ]
    assert best.prevalence == pytest.approx(120 / int(whole.counted.sum()))
    mirrored = figures_of(whole.lesion.float().flip(-1), whole, score="mirrored")
    assert mirrored.in_body.value < 0.5
    assert mirrored.average_precision.value < 0.1
    no_organ = figures_of(clipped.lesion.float(), clipped, score="perfect")
    assert no_organ.in_organ is None
    assert no_organ.organ_average_precision is None
    assert 7 * 8 / int(clipped.body.sum()) <= no_organ.left_out < 0.05  # the fat within, and a little at the rim


def test_heat_in_filled_pixels_is_not_held_against_a_map(folder):
    _, clipped = read_labelled_slices(folder, SOURCES, **OPTIONS)
    heat = clipped.lesion.float() + 2.0 * (clipped.body & ~clipped.counted)
    assert figures_of(heat, clipped, score="a").average_precision.value == 1
    everything = replace(clipped, counted=clipped.body)
    assert figures_of(heat, everything, score="a").average_precision.value < 0.5


def test_organs_that_are_not_marked_beside_their_lesion_are_left_out(folder):
    (whole,) = read_labelled_slices(folder, {"whole": SOURCES["whole"]}, **OPTIONS)
    unmarked = replace(whole, organ=torch.where(torch.tensor([0, 0, 1])[:, None, None, None] > 0, whole.lesion, 0) > 0)
    study = figures_of(torch.rand(whole.images.shape), unmarked, score="a")
    assert study.in_organ is None
    assert study.organ_average_precision is None


def test_the_study_scores_in_the_plane_and_reports(folder):
    asked = []

    class Asked(Scorer):
        def heatmap(self, images, body, *, slice_mm=None, progress=None):
            asked.append(slice_mm)
            return super().heatmap(images, body, slice_mm=slice_mm, progress=progress)

    inferer = KLIPInferer.of(Identity((64, 64)), window_levels=2, sampler_levels=2, lowpass_z_mm=3.0)
    score = Asked(GaussianDenoiser(std=0.5), inferer, grid=GRID)
    sources = {
        "whole": {"lesion": [LESION], "organ": [ORGAN, LESION], "ignore": [CYST]},
        "clipped": {"lesion": [LESION], "clip_hu": 0.0},
    }
    study = run_labelled_slices_study({"first": score, "second": score}, folder, sources=sources, pixel_mm=3.0)
    assert asked == [None] * 4
    assert [(part.score, part.source) for part in study.sources] == [
        ("first", "whole"),
        ("first", "clipped"),
        ("second", "whole"),
        ("second", "clipped"),
    ]
    save_labelled_slices_study(study, folder / "out", provenance={"bundle": "toy"})
    text = (folder / "out" / "labelled_slices_study.md").read_text()
    assert "| first | whole | 3 | 2 | 2 | " in text
    assert "| second | clipped | c | 1 of 1 | " in text
    content = json.loads((folder / "out" / "labelled_slices_study.json").read_text())
    assert content["sources"][1]["organ_prevalence"] is None
    assert content["provenance"] == {"bundle": "toy"}


def test_what_is_missing_or_wrong_is_refused(folder):
    with pytest.raises(InputError, match="no slice of source 'other', only of clipped, whole"):
        read_labelled_slices(folder, {"other": SOURCES["whole"]}, **OPTIONS)
    with pytest.raises(InputError, match="sources: got none"):
        run_labelled_slices_study({}, folder, sources={})
    with pytest.raises(InputError, match=r"source whole: got organs, expected lesion of lesion, organ"):
        run_labelled_slices_study({}, folder, sources={"whole": {"organs": [1]}})
    names = list(FILES)
    write_masks(folder, names[1:], np.stack([mask()] * 3))
    with pytest.raises(InputError, match=r"got no mask of whole/a0\.png"):
        read_labelled_slices(folder, SOURCES, **OPTIONS)
    write_masks(folder, names, np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(InputError, match=r"mask of whole/a0\.png: got shape \(32, 32\), expected .* \(64, 64\)"):
        read_labelled_slices(folder, SOURCES, **OPTIONS)
    write_masks(folder, names, np.zeros((4, 32, 32)))
    with pytest.raises(InputError, match="expected integers"):
        read_labelled_slices(folder, SOURCES, **OPTIONS)
    (folder / "masks.npz").unlink()
    with pytest.raises(InputError, match=r"masks .* cannot be read"):
        read_labelled_slices(folder, SOURCES, **OPTIONS)
