"""Series that are not as they should be and can still be placed exactly, held against other libraries."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from ct_files import refusal, sample_hu, tilted, write_series, write_tilted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from klip_monai.io import index_series, list_series, read_volume
from klip_monai.io.dicom.geometry import SeriesGrid, series_grid
from klip_monai.io.straighten import straighten
from klip_monai.standard import PriorGrid, standard_slices, to_source_grid

AXES = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])


def assert_voxels_lie_where_highdicom_puts_them(folder: Path) -> None:
    """Each file, by itself, says where its pixels are and what they hold: the volume must say the same."""
    volume = read_volume(folder)
    values, affine = volume[0].numpy(), volume.affine.numpy()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        ds = pydicom.dcmread(file)
        to_patient = highdicom.spatial.PixelToReferenceTransformer(
            ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
        )
        indices = np.array([[0, 0], [ds.Columns - 1, 0], [0, ds.Rows - 1], [3, 5]])
        lps = to_patient(indices)
        voxels = np.linalg.solve(affine, np.c_[lps * [-1, -1, 1], np.ones(len(lps))].T)[:3].T
        np.testing.assert_allclose(voxels, voxels.round(), atol=0.2)
        i, j, k = voxels.round().astype(int).T
        np.testing.assert_array_equal(values[i, j, k], [sitk_pixel(file, *index) for index in indices])


def sitk_pixel(file: Path, column: int, row: int) -> float:
    return max(-1024.0, float(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0, row, column]))  # padding


@pytest.mark.parametrize("degrees", [0.5, 2.0, 15.0, -30.0])
def test_tilted_gantry_keeps_every_voxel_where_it_was_measured(tmp_path: Path, degrees: float) -> None:
    write_tilted(tmp_path, sample_hu(12), degrees)
    assert_voxels_lie_where_highdicom_puts_them(tmp_path)
    volume = read_volume(tmp_path)
    assert volume.meta["repairs"] == f"gantry tilt of {abs(degrees):.1f} degrees, kept on the tilted grid"
    # A tilt does not change how much tissue a voxel stands for: pixel area x distance along the normal.
    assert abs(np.linalg.det(volume.affine.numpy()[:3, :3])) == pytest.approx(
        0.8 * 0.7 * 5 * np.cos(np.radians(degrees))
    )


def test_real_tilted_series_lies_where_highdicom_puts_it(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "robust" / "gantry_tilt_15.zip"
    if not file.exists():
        pytest.skip(f"{file.name} is not on this machine")
    with zipfile.ZipFile(file) as zipped:
        zipped.extractall(tmp_path)
    assert_voxels_lie_where_highdicom_puts_them(tmp_path)
    np.testing.assert_array_equal(read_volume(file).numpy(), read_volume(tmp_path).numpy())


def test_map_on_the_priors_grid_comes_back_to_the_voxels_of_a_tilted_series(tmp_path: Path) -> None:
    hu = np.full((8, 80, 80), -1000, dtype=np.int16)
    hu[:, 10:70, 10:70] = 40
    write_tilted(tmp_path / "scan", hu, 15.0)
    volume = read_volume(tmp_path / "scan")
    slices = standard_slices(volume, PriorGrid(image_shape=(64, 64), pixel_mm=1.0))
    mask = (slices.images > -0.5).float()
    back = to_source_grid(mask, slices.placement)
    np.testing.assert_allclose(back.affine, volume.affine)
    source = volume[0].numpy() > -100
    assert 2 * (source & (back[0].numpy() >= 0.5)).sum() / (source.sum() + (back[0].numpy() >= 0.5).sum()) > 0.98


def test_identical_repeats_are_dropped(tmp_path: Path) -> None:
    hu = sample_hu()
    uid = write_series(tmp_path / "a", hu)
    plain = read_volume(tmp_path)
    shutil.copy(tmp_path / "a" / "I1", tmp_path / "a" / "I1 - Copy")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.numpy(), plain.numpy())
    np.testing.assert_array_equal(volume.affine, plain.affine)
    assert "1 repeated slice(s) of the same pixels dropped" in volume.meta["repairs"]
    (info,) = list_series(tmp_path)
    assert (info.verdict, info.n_slices, info.series_uid) == ("usable after repair", 6, uid)


def test_conflicting_repeats_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu())
    ds = pydicom.dcmread(tmp_path / "I1")
    ds.PixelData = bytes(8) + ds.PixelData[8:]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.save_as(tmp_path / "other")
    assert "2 different slices at an occupied position" in refusal(tmp_path)
    ds.AcquisitionNumber = 7
    ds.save_as(tmp_path / "other")
    assert "slices that differ in AcquisitionNumber" in refusal(tmp_path)
    assert index_series(tmp_path).series[0].verdict == "refused"


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "KVP", "AcquisitionTime"])
def test_phases_of_one_series_are_split_and_read_one_by_one(tmp_path: Path, tag: str) -> None:
    def phase(value: str):
        return lambda _, ds: setattr(ds, tag, value)

    uid = write_series(tmp_path / "a", sample_hu(seed=1), edit=phase("9"))
    study = {"origin": (-20.0, -30.0, 40.0)}
    write_series(tmp_path / "b", sample_hu(seed=2), edit=phase("10"), series_uid=uid, **study)
    for file in (tmp_path / "b").iterdir():
        ds = pydicom.dcmread(file)
        ds.FrameOfReferenceUID = pydicom.dcmread(tmp_path / "a" / "I0").FrameOfReferenceUID
        ds.save_as(file)
    first, second = list_series(tmp_path)
    assert [first.verdict, second.verdict] == ["usable", "usable"]
    assert (first.series_uid, second.series_uid) == (f"{uid}#1", f"{uid}#2")
    assert second.name == first.name.removesuffix(".1") + ".2"
    assert "choose one with --series-uid" in refusal(tmp_path)
    assert f"{uid}#2" in refusal(tmp_path, series_uid=uid)
    for info, seed in ((first, 1), (second, 2)):
        for key in (info.name, info.series_uid):
            volume = read_volume(tmp_path, series_uid=key)
            np.testing.assert_array_equal(volume[0].numpy(), sample_hu(seed=seed).transpose(2, 1, 0))
            assert volume.meta["series_uid"] == uid


def test_gap_is_filled_only_when_asked(tmp_path: Path) -> None:
    hu = sample_hu(8)
    write_series(tmp_path, hu)
    whole = read_volume(tmp_path)
    for file in list(tmp_path.iterdir()):
        if pydicom.dcmread(file).ImagePositionPatient[2] == 46:
            file.unlink()
    assert "--repair gaps" in refusal(tmp_path)
    volume = read_volume(tmp_path, repair=["gaps"])
    np.testing.assert_allclose(volume.affine, whole.affine)
    expected = hu.astype(np.float32)
    expected[3] = (expected[2] + expected[4]) / 2
    np.testing.assert_array_equal(volume[0].numpy(), expected.transpose(2, 1, 0))
    assert volume.meta["repairs"] == "1 of 8 slices interpolated over gaps of up to 4.00 mm"
    assert index_series(tmp_path).series[0].verdict == "refused"
    assert index_series(tmp_path, fill_gaps=True).series[0].verdict == "usable after repair"


def test_wide_gap_is_refused_even_when_asked(tmp_path: Path) -> None:
    def edit(k: int, ds: pydicom.Dataset) -> None:
        ds.ImagePositionPatient = [-20, -30, 2 * k + (12 if k > 5 else 0)]

    write_series(tmp_path, sample_hu(9), edit=edit)
    message = refusal(tmp_path, repair=("gaps",))
    assert "1 gap(s) between slices, first 14.00 mm wide" in message
    assert "--repair" not in message
    assert "expected gaps" in refusal(tmp_path, repair=("holes",))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1.0, 4.0), min_size=5, max_size=20))
def test_filled_slices_interpolate_linear_ramps_exactly(steps: list[float]) -> None:
    z = np.concatenate([[0], np.cumsum(steps)])
    positions = np.c_[np.zeros((len(z), 2)), z]
    grid: SeriesGrid = series_grid(positions[::-1], AXES, pixel_spacing=np.ones(2), label="ramp", fill_gaps=True)
    ramp = np.empty((len(z), 1, 1), dtype=np.float32)
    ramp[grid.places, 0, 0] = z[::-1]
    filled = grid.fill(ramp)[:, 0, 0]
    # Slices within the tolerance of a place are taken as they are.
    np.testing.assert_allclose(filled, grid.affine[2, 2] * np.arange(len(filled)), atol=0.11)
    assert filled[0] == 0
    assert filled[-1] == np.float32(z[-1])


@pytest.mark.parametrize(("bits", "signed"), [(12, False), (12, True), (14, True), (16, False), (16, True)])
def test_signed_and_unsigned_bits_equal_itk(tmp_path: Path, bits: int, signed: bool) -> None:
    hu = np.clip(sample_hu(), -1000, 1000)

    def edit(k: int, ds: pydicom.Dataset) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
        ds.RescaleIntercept = 0 if signed else -1024
        ds.PixelData = (hu[k] if signed else hu[k] + 1024).astype("<i2").tobytes()

    write_series(tmp_path, hu, edit=edit)
    volume = read_volume(tmp_path)[0].numpy()
    np.testing.assert_array_equal(volume, hu.transpose(2, 1, 0))
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    np.testing.assert_array_equal(volume, sitk.GetArrayFromImage(sitk.ReadImage(files)).transpose(2, 1, 0))


def test_overlong_decimal_strings_keep_their_place(tmp_path: Path) -> None:
    hu = sample_hu(rows=32, columns=32)
    write_series(tmp_path / "a", hu)
    for file in (tmp_path / "a").iterdir():
        raw = file.read_bytes()
        ds = pydicom.dcmread(file)
        position = "\\".join(f"{value:.20f}" for value in map(float, ds.ImagePositionPatient)).encode()
        position += b" " * (len(position) % 2)
        start = raw.index(b"\x20\x00\x32\x00DS")
        length = int.from_bytes(raw[start + 6 : start + 8], "little")
        file.write_bytes(raw[: start + 6] + len(position).to_bytes(2, "little") + position + raw[start + 8 + length :])
    np.testing.assert_allclose(read_volume(tmp_path).affine[:3, 3], [20, 30, 40])
    assert_voxels_lie_where_highdicom_puts_them(tmp_path / "a")


def test_dcm2niix_puts_voxels_at_the_same_place(tmp_path: Path) -> None:
    program = shutil.which("dcm2niix") or pytest.importorskip("dcm2niix").bin
    hu = sample_hu(6, 32, 32)
    write_series(tmp_path / "in", hu, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    (tmp_path / "out").mkdir()
    subprocess.run([program, "-z", "n", "-o", tmp_path / "out", tmp_path / "in"], check=True, capture_output=True)
    (file,) = (tmp_path / "out").glob("*.nii")
    other = nib.as_closest_canonical(nib.load(file))
    volume = read_volume(tmp_path / "in")
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume[0].numpy(), volume.affine.numpy()))
    np.testing.assert_allclose(ours.affine, other.affine, atol=1e-3)
    np.testing.assert_array_equal(ours.get_fdata(), other.get_fdata())


def test_straightened_tilt_has_the_grid_that_dcm2niix_corrects_to(tmp_path: Path) -> None:
    program = shutil.which("dcm2niix") or pytest.importorskip("dcm2niix").bin
    z, y, x = np.indices((12, 64, 40))
    hu = (200 * np.sin(x / 9) + 300 * np.sin(y / 7 + z / 3)).round().astype(np.int16)

    def signed(k: int, ds: pydicom.Dataset) -> None:
        ds.ImagePositionPatient, ds.PixelRepresentation = [-20, -30, 40 + 5 * k], 1
        ds.GantryDetectorTilt, ds.InstanceNumber = 15.0, k + 1

    write_series(tmp_path / "in", hu, orientation=tilted(15.0), edit=signed)
    (tmp_path / "out").mkdir()
    subprocess.run([program, "-z", "n", "-o", tmp_path / "out", tmp_path / "in"], check=True, capture_output=True)
    (file,) = (tmp_path / "out").glob("*_Tilt_*.nii")
    other = nib.load(file)
    volume = read_volume(tmp_path / "in")
    values, affine = straighten(volume[0].numpy(), volume.affine.numpy(), fill=np.nan)
    ours, theirs = (nib.as_closest_canonical(image) for image in (nib.Nifti1Image(values, affine), other))
    np.testing.assert_allclose(ours.affine[:3, :3], theirs.affine[:3, :3], atol=1e-3)
    assert np.abs(np.subtract(ours.shape, theirs.shape)).max() <= 2
    places = nib.affines.apply_affine(np.linalg.inv(theirs.affine) @ ours.affine, np.indices(ours.shape).T)
    np.testing.assert_allclose(places[..., 2], places[..., 2].round(), atol=1e-2)
    sampled = map_coordinates(np.asarray(theirs.dataobj, np.float64), places.T.reshape(3, -1), order=1, cval=np.nan)
    difference = np.abs(sampled.reshape(ours.shape) - ours.get_fdata())
    known = np.isfinite(difference) & (sampled.reshape(ours.shape) > -900)
    assert known.sum() > 0.8 * hu.size
    assert np.quantile(difference[known], 0.98) < 25
