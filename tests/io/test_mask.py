"""Masks of other programs, on grids of their own, land where they were drawn."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from mask_files import (
    BOX,
    Drawn,
    assert_in_box,
    draw,
    in_box,
    write_dicom_seg,
    write_nifti,
    write_seg_nrrd,
    write_sitk,
)
from pydicom import dcmread
from scipy.spatial.transform import Rotation

from klip_monai.errors import InputError
from klip_monai.io import claims
from klip_monai.io.masks.mask import Mask, read_mask
from klip_monai.io.masks.mask_grid import on_grid
from klip_monai.io.masks.roi import Roi

SHAPE = (40, 36, 14)
# No centre lies on a side of the box: not a multiple of a mm.
SCAN = np.array([[-2.5, 0, 0, 48.3], [0, -3.0, 0, 52.4], [0, 0, 5.0, -23.3], [0, 0, 0, 1]])


def frame(*degrees: float) -> np.ndarray:
    """A turned frame, (4, 4)."""
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    turned[:3, 3] = (3.1, -4.2, 2.7)
    return turned


GRIDS = {
    "same orientation": draw((5, 5, 5), axes="LPS"),
    "flipped": draw((5, 5, 5), axes="RAS"),
    "turned by 90 degrees": draw((5, 5, 5), axes="SLA"),
    "turned and flipped": draw((5, 5, 10), axes="PIR"),
    "cropped to the region": draw((1, 1, 1), axes="LPS", margin=0),
    "finer": draw((0.5, 0.5, 1)),
    "coarser": draw((15, 17.5, 20), axes="LAS"),
}
OBLIQUE = frame(25, -14, 33)


def landed(mask: Mask, affine: np.ndarray = SCAN, shape=SHAPE) -> np.ndarray:
    region, _ = on_grid(mask.values, mask.affine, shape=shape, target=affine)
    return region


def written(drawn: Drawn, folder: Path) -> dict[str, Path]:
    """The mask by every library."""
    return {
        "nibabel": write_nifti(folder / "a.nii.gz", drawn),
        "nibabel, qform": write_nifti(folder / "b.nii", drawn, codes=(0, 1), dtype=np.float32),
        "SimpleITK": write_sitk(folder / "c.nrrd", drawn),
        "SimpleITK, MetaImage": write_sitk(folder / "d.mha", drawn),
        "pynrrd": write_seg_nrrd(folder / "e.seg.nrrd", [drawn.values], drawn.affine, [("Liver", 1, 0)]),
        "pynrrd, RAS": write_seg_nrrd(
            folder / "f.seg.nrrd", [drawn.values], drawn.affine, [("Liver", 1, 0)], space="right-anterior-superior"
        ),
        "highdicom": write_dicom_seg(folder / "g.dcm", drawn),
    }


@pytest.mark.parametrize("name", GRIDS)
def test_a_box_lands_where_it_was_drawn_whoever_wrote_it(name, tmp_path):
    expected = in_box(SCAN, SHAPE)
    assert 0 < expected.sum() < expected.size
    hashes = set()
    for library, path in written(GRIDS[name], tmp_path).items():
        mask = read_mask(Roi(path))
        np.testing.assert_array_equal(landed(mask), expected, err_msg=library)
        hashes.add(mask.sha256)
    assert len(hashes) == 1


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 5, 10)])
def test_an_oblique_box_lands_where_it_was_drawn_whoever_wrote_it(spacing, tmp_path):
    drawn = draw(spacing, axes="LSA", frame=OBLIQUE)
    for path in written(drawn, tmp_path).values():
        assert_in_box(landed(read_mask(Roi(path))), SCAN, frame=OBLIQUE)


def test_a_mask_on_an_upright_grid_lands_on_the_slices_of_a_tilted_gantry():
    leaning = SCAN.copy()
    leaning[1, 2] = 1.63
    mask = draw((1, 1, 1))
    np.testing.assert_array_equal(landed(Mask(mask.values > 0, mask.affine), leaning), in_box(leaning, SHAPE))


def test_the_frames_of_a_tilted_gantry_lie_where_they_were_acquired(tmp_path):
    drawn = draw((5, 5, 5), axes="LPS")
    path = write_dicom_seg(tmp_path / "a.dcm", drawn)
    dataset = dcmread(path)
    lean = 0.3
    for group in dataset.PerFrameFunctionalGroupsSequence:  # as tall as before, and moved to the back
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y + lean * (float(z) - BOX[2][0]), z]
    dataset.save_as(path)
    leaning = np.eye(4)
    leaning[1, 2], leaning[1, 3] = -lean, lean * BOX[2][0]
    np.testing.assert_array_equal(landed(read_mask(Roi(path))), in_box(SCAN, SHAPE, frame=leaning))


def test_the_same_grid_gives_the_mask_itself_turned_or_not():
    values = np.random.default_rng(0).random(SHAPE) < 0.3
    np.testing.assert_array_equal(on_grid(values, SCAN, shape=SHAPE, target=SCAN)[0], values)
    turned = SCAN @ nib.orientations.inv_ornt_aff(np.array([[2, 1], [0, -1], [1, 1]]), SHAPE)
    moved = nib.orientations.apply_orientation(values, np.array([[2, 1], [0, -1], [1, 1]]))
    np.testing.assert_array_equal(on_grid(moved, turned, shape=SHAPE, target=SCAN)[0], values)


def test_centres_on_a_side_of_the_region_belong_to_it_whichever_way_the_mask_runs():
    scan = np.diag([2.0, 2.0, 2.0, 1.0])
    for axes in ("RAS", "LPI"):
        box = ((2.0, 6.0), (2.0, 6.0), (2.0, 6.0))
        mask = draw((1, 1, 1), axes=axes, box=box)
        region, _ = on_grid(mask.values > 0, mask.affine, shape=(6, 6, 6), target=scan)
        assert np.argwhere(region).min() == 1
        assert np.argwhere(region).max() == 3
        assert int(region.sum()) == 27


def test_parts_between_the_centres_of_a_coarse_scan_are_not_lost():
    values = np.zeros((60, 60, 40), dtype=bool)
    values[10:13, 20, 16] = True  # 3 mm long, between two slices
    values[40:50, 40:50, 10:30] = True
    scan = np.diag([4.0, 4.0, 10.0, 1.0])
    region, inside = on_grid(values, np.eye(4), shape=(15, 15, 4), target=scan)
    assert inside == 1.0
    small = region.copy()
    small[9:] = False
    assert np.argwhere(small).tolist() == [[3, 5, 2]]  # the voxel that holds 10, 11 and 12, 20, 16
    expected = in_box(scan, region.shape, box=((39.5, 49.5), (39.5, 49.5), (9.5, 29.5)))
    np.testing.assert_array_equal(region[9:], expected[9:])


def test_the_share_inside_of_the_scan_is_that_of_the_masks_voxels():
    mask = draw((1, 1, 1))
    half = SCAN.copy()
    half[2, 3] = 12.5  # its lowest slice begins at 10 mm, half-way up the box
    region, inside = on_grid(mask.values > 0, mask.affine, shape=SHAPE, target=half)
    assert inside == pytest.approx(0.5)
    np.testing.assert_array_equal(region, in_box(half, SHAPE))
    away = SCAN.copy()
    away[2, 3] = 500.0
    assert on_grid(mask.values > 0, mask.affine, shape=SHAPE, target=away)[1] == 0.0


# Labels


@pytest.fixture
def organs() -> Drawn:
    """Two boxes: 1 below, 3 above."""
    drawn = draw((5, 5, 5), axes="LPS")
    values = drawn.values.copy()
    values[:, :, values.shape[2] // 2 :] *= 3
    return Drawn(values, drawn.affine)


def test_numbers_choose_labels_and_all_of_them_count_without(organs, tmp_path):
    for path in (write_nifti(tmp_path / "a.nii.gz", organs), write_sitk(tmp_path / "b.nrrd", organs)):
        for labels, values in (("1", [1]), ("3", [3]), ("1, 3", [1, 3]), ("", [1, 3]), ("3,7", [3])):
            mask = read_mask(Roi(path, labels))
            np.testing.assert_array_equal(mask.values, np.isin(organs.values, values))
        assert (mask.labels, mask.absent) == ((3, 7), 1)


def test_segments_that_overlap_lie_in_layers_and_go_by_name(organs, tmp_path):
    below, above = organs.values == 1, organs.values == 3
    both = below | above
    segments = [("Liver", 1, 0), ("Spleen", 2, 0), ("Upper, abdomen", 1, 1)]
    layers = [below + 2 * above, both]
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", layers, organs.affine, segments)
    for labels, expected in (
        ("Liver", below),
        ("liver", below),
        ("Spleen", above),
        ("2", above),
        ("Liver,Spleen", both),
        ("Upper, abdomen", both),
        ("", both),
    ):
        mask = read_mask(Roi(path, labels))
        np.testing.assert_array_equal(mask.values, expected, err_msg=labels)
        np.testing.assert_allclose(mask.affine, organs.affine, atol=1e-9)
    with pytest.raises(InputError, match=r"--roi: got the label '1' .*which 2 of its segments have.*'Liver' \(1\)"):
        read_mask(Roi(path, "1"))


def test_segments_of_old_files_are_a_layer_each(organs, tmp_path):
    layers = [organs.values == 1, organs.values == 3]
    segments = [("Liver", 0, 0), ("Spleen", 0, 0)]
    path = write_seg_nrrd(tmp_path / "a.seg.nrrd", layers, organs.affine, segments, numbered=False)
    np.testing.assert_array_equal(read_mask(Roi(path, "Spleen")).values, layers[1])


def test_segments_of_a_dicom_segmentation_go_by_name_and_number(organs, tmp_path):
    relabelled = Drawn(np.where(organs.values == 3, 2, organs.values), organs.affine)
    path = write_dicom_seg(tmp_path / "a.dcm", relabelled, ("Liver", "Spleen"), frame_uid="1.2.3")
    for labels, values in (("spleen", [2]), ("1", [1]), ("Liver,Spleen", [1, 2]), ("", [1, 2])):
        mask = read_mask(Roi(path, labels))
        expected = Mask(np.isin(relabelled.values, values), relabelled.affine)
        np.testing.assert_array_equal(landed(mask), landed(expected), err_msg=labels)
        assert mask.sha256 == expected.sha256
    assert mask.frame_of_reference == "1.2.3"


def test_a_fractional_segment_counts_where_it_is_at_least_half(tmp_path):
    drawn = draw((5, 5, 5), axes="LPS")
    fractions = drawn.values * np.linspace(0, 1, drawn.values.shape[0])[:, None, None]
    path = write_dicom_seg(tmp_path / "a.dcm", drawn, kind="FRACTIONAL", values=fractions)
    np.testing.assert_array_equal(
        landed(read_mask(Roi(path))), landed(Mask((fractions >= 0.5) & (drawn.values > 0), drawn.affine))
    )


# Refusals


def refused(roi: Roi) -> str:
    with pytest.raises(InputError) as caught:
        read_mask(roi)
    message = str(caught.value)
    assert message.startswith("--roi: got ")
    assert "expected" in message
    assert ";" in message
    assert "\n" not in message
    return message


def test_labels_that_are_not_there_are_refused_naming_those_that_are(organs, tmp_path):
    nifti = write_nifti(tmp_path / "a.nii.gz", organs)
    assert "it has: 1, 3" in refused(Roi(nifti, "2"))
    assert "no names" in refused(Roi(nifti, "Liver"))
    seg = write_seg_nrrd(tmp_path / "b.seg.nrrd", [organs.values], organs.affine, [("Liver", 1, 0), ("Gap", 2, 0)])
    assert "one of 'Liver' (1), 'Gap' (2)" in refused(Roi(seg, "Lever"))
    assert "no voxel of 'Gap' (2)" in refused(Roi(seg, "Gap"))
    dicom = write_dicom_seg(tmp_path / "c.dcm", draw((5, 5, 5)), ("Liver", "Gap"))
    assert "one of 'Liver' (1), 'Gap' (2)" in refused(Roi(dicom, "3"))
    assert "no voxel of 'Gap' (2)" in refused(Roi(dicom, "Gap"))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64, np.float64])
@pytest.mark.parametrize("label", [2**24, 2**53, 2**63])
def test_large_labels_are_told_apart_to_the_last_digit(dtype, label, tmp_path):
    if label > (2**52 if dtype is np.float64 else np.iinfo(dtype).max):
        pytest.skip("not a label of this type")
    values = np.zeros((4, 3, 2), dtype)
    values[0], values[1] = label, label + 1
    drawn = Drawn(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    for path in (write_nifti(tmp_path / "a.nii", drawn, dtype=dtype), write_sitk(tmp_path / "b.nrrd", drawn)):
        for place, number in enumerate((label, label + 1)):
            mask = read_mask(Roi(path, str(number)))
            np.testing.assert_array_equal(mask.values, values == values[place, 0, 0])
            assert mask.labels == (number,)
        assert "no voxel of the labels" in refused(Roi(path, str(label + 2)))


def test_labels_that_a_file_scales_are_the_scaled_ones(tmp_path):
    values = np.zeros((4, 3, 2), np.int16)
    values[0], values[1] = 1, 2
    image = nib.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(3.0, 0.0)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_array_equal(read_mask(Roi(tmp_path / "a.nii", str(int(stored[1, 0, 0])))).values, values == 2)


def test_labels_that_their_type_cannot_tell_apart_are_refused(tmp_path):
    for dtype, largest in ((np.float32, 2**24), (np.float64, 2**53)):
        values = np.zeros((4, 3, 2), dtype)
        values[0] = largest
        drawn = Drawn(values, np.eye(4))
        assert read_mask(Roi(write_nifti(tmp_path / "a.nii", drawn, dtype=dtype), str(largest))).values.sum() == 6
        values[1] = largest + 2
        path = write_nifti(tmp_path / "a.nii", drawn, dtype=dtype)
        assert f"expected at most {largest}" in refused(Roi(path, str(largest)))


def test_what_is_no_mask_is_refused(organs, tmp_path):
    empty = write_nifti(tmp_path / "a.nii.gz", Drawn(organs.values * 0, organs.affine))
    assert "without a voxel above 0" in refused(Roi(empty))
    scan = write_nifti(tmp_path / "b.nii.gz", Drawn(organs.values * 500 - 1000, organs.affine), dtype=np.int16)
    assert "not an image" in refused(Roi(scan))
    likely = write_nifti(tmp_path / "c.nii.gz", Drawn(organs.values * 0.3, organs.affine), dtype=np.float32)
    assert "not whole" in refused(Roi(likely))
    unknown = write_nifti(tmp_path / "d.nii.gz", Drawn(organs.values * np.nan, organs.affine), dtype=np.float32)
    assert f"{organs.values.size} voxels of NaN or infinity" in refused(Roi(unknown))
    endless = Drawn(np.where(organs.values > 0, np.inf, 0), organs.affine)
    for dtype in (np.float32, np.float64):
        assert "NaN or infinity" in refused(Roi(write_nifti(tmp_path / "f.nii.gz", endless, dtype=dtype)))
        assert "NaN or infinity" in refused(Roi(write_nifti(tmp_path / "f.nii.gz", endless, dtype=dtype), "1"))
    waves = write_nifti(tmp_path / "g.nii", organs, dtype=np.complex64)
    assert "of complex64" in refused(Roi(waves))
    write_dicom_seg(tmp_path / "e.dcm", draw((5, 5, 5)))
    ct = next((tmp_path / "e_source").iterdir())
    assert "modality CT" in refused(Roi(ct))


def test_a_mask_of_unknown_place_is_refused_as_a_scan_is(organs, tmp_path):
    assert "qform code 0" in refused(Roi(write_nifti(tmp_path / "a.nii.gz", organs, codes=(0, 0))))
    seg = write_seg_nrrd(tmp_path / "b.seg.nrrd", [organs.values], organs.affine, [("Liver", 1, 0)], space=None)
    assert "without space, space directions, space origin" in refused(Roi(seg))
    flat = Drawn(organs.values, np.diag([1.0, 1.0, 0.0, 1.0]))
    assert "span space" in refused(Roi(write_nifti(tmp_path / "c.nii.gz", flat, codes=(1, 0))))


def test_masks_may_pack_much_better_than_scans(organs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RATIO_COUNTS_FROM", 2**10)
    values = np.zeros((200, 200, 100))
    values[:, :, 50:75] = 1
    wide = Drawn(values, organs.affine)
    paths = (
        write_nifti(tmp_path / "a.nii.gz", wide, dtype=np.float64),
        write_sitk(tmp_path / "b.nrrd", Drawn(values.astype(np.float64), organs.affine)),
        write_seg_nrrd(tmp_path / "c.seg.nrrd", [values] * 8, organs.affine, [("Liver", 1, 0)]),
    )
    for path in paths:
        assert values.size * 8 > claims.MAX_RATIO * path.stat().st_size
        assert int(read_mask(Roi(path)).values.sum()) == 200 * 200 * 25


def test_damaged_masks_are_refused(organs, tmp_path):
    paths = (
        write_nifti(tmp_path / "a.nii.gz", organs),
        write_seg_nrrd(tmp_path / "b.seg.nrrd", [organs.values], organs.affine, [("Liver", 1, 0)]),
        write_sitk(tmp_path / "c.nrrd", organs),
        write_dicom_seg(tmp_path / "d.dcm", draw((5, 5, 5))),
    )
    for path in paths:
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
        refused(Roi(path))


# Names


def test_a_file_of_the_whole_name_wins_over_labels(organs, tmp_path):
    plain = write_nifti(tmp_path / "a.nii.gz", organs)
    assert Roi.parse(f"{plain}") == Roi(plain)
    assert Roi.parse(f"{plain}:1,3") == Roi(plain, "1,3")
    assert Roi.parse(f"{plain}:Organ: liver") == Roi(plain, "Organ: liver")
    odd = write_nifti(tmp_path / "a:3.nii", organs)
    assert Roi.parse(f"{odd}") == Roi(odd)
    assert Roi.parse(f"{odd}:3") == Roi(odd, "3")
    drive = tmp_path / "C:"
    drive.mkdir()
    assert Roi.parse(f"{write_nifti(drive / 'a.nii', organs)}") == Roi(drive / "a.nii")
    for text in (str(plain), f"{plain}:1", f"{odd}:Organ: liver"):
        assert str(Roi.parse(text)) == text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.nii.gz", "no file"),
        ("none.nii.gz:5", "no file"),
        (":5", "no file"),
        ("a.nii.gz:", "nothing behind the colon"),
        (".", "a folder"),
        ("notes.txt", "no known format"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name, words, organs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "a.nii.gz", organs)
    (tmp_path / "notes.txt").write_text("no mask")
    with pytest.raises(InputError, match=rf"--roi: got '{name}'.*{words}.*expected.*;"):
        Roi.parse(name)


def test_the_mask_of_a_series_goes_by_its_uid_or_its_name(tmp_path):
    folder = Roi.parse_folder(f"{tmp_path}:Liver")
    with pytest.raises(InputError, match=r"got no mask for ct-1 .*expected one file named by"):
        folder.in_folder("1.2.3", "ct-1")
    (tmp_path / "1.2.3.seg.nrrd").touch()
    assert folder.in_folder("1.2.3", "ct-1") == Roi(tmp_path / "1.2.3.seg.nrrd", "Liver")
    assert folder.in_folder("1.2.3#2", "ct-1.2") == Roi(tmp_path / "1.2.3.seg.nrrd", "Liver")
    assert folder.in_folder("1.2.4", "1.2.3").path.name == "1.2.3.seg.nrrd"
    (tmp_path / "ct-1.dcm").touch()
    with pytest.raises(InputError, match="got several masks"):
        folder.in_folder("1.2.3", "ct-1")
    with pytest.raises(InputError, match="no folder"):
        Roi.parse_folder(str(tmp_path / "none"))


@pytest.mark.parametrize("labels", [",", " ,", ",,"])
def test_commas_alone_are_no_labels(organs, labels, tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", organs)
    for make in (lambda: Roi.parse(f"{path}:{labels}"), lambda: Roi.parse_folder(f"{tmp_path}:{labels}")):
        with pytest.raises(InputError, match=r"expected labels such as .*; leave the colon out"):
            make()
    with pytest.raises(InputError, match="--roi: got the labels ','"):
        Roi(path, ",")


@pytest.mark.parametrize("text", ["", " "])
def test_nothing_is_no_region(text):
    for parse in (Roi.parse, Roi.parse_folder):
        with pytest.raises(InputError, match=f"--roi: got '{text}', expected .*; leave --roi out"):
            parse(text)


def test_a_folder_is_no_mask_with_labels_or_without(tmp_path):
    for text in (tmp_path, f"{tmp_path}:1", f"{tmp_path}:1:2"):
        with pytest.raises(InputError, match="which is a folder, expected a mask as"):
            Roi.parse(str(text))
