from __future__ import annotations

import logging
import os
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from ct_files import normal_of, refusal, sample_hu, tilted, write_enhanced, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy.spatial.transform import Rotation

from klip_monai.io import list_series, read_volume
from klip_monai.io.dicom.pixels import quiet_pydicom


def itk_series(folder: Path, uid: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) and RAS affine of a series as SimpleITK reads it."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), uid))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def test_series_gives_hu_with_ras_affine_and_meta(tmp_path: Path) -> None:
    hu = sample_hu()
    uid = write_series(tmp_path / "liver scan (1)", hu)
    volume = read_volume(tmp_path / "liver scan (1)")
    assert isinstance(volume, MetaTensor)
    assert volume.dtype == torch.float32
    assert volume.affine.dtype == torch.float64
    assert volume.shape == (1, 12, 16, 5)
    np.testing.assert_array_equal(volume[0].numpy(), hu.transpose(2, 1, 0))
    expected = [[-0.7, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2, 40], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine.numpy(), expected, atol=1e-9)
    meta = volume.meta
    assert meta["name"] == "liver_scan_1"
    assert meta["filename_or_obj"] == str(tmp_path / "liver scan (1)")
    assert (meta["format"], meta["modality"], meta["series_uid"], meta["space"]) == ("dicom", "CT", uid, "RAS")
    assert list(meta["spatial_shape"]) == [12, 16, 5]
    np.testing.assert_array_equal(meta["original_affine"], volume.affine.numpy())
    assert "Secret" not in str(meta)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 3)] * 3),
)
def test_oblique_series_lies_where_itk_puts_it(
    tmp_path: Path, angles: tuple[float, ...], origin: tuple[float, float, float], spacing: tuple[float, ...]
) -> None:
    folder = tmp_path / "oblique"
    shutil.rmtree(folder, ignore_errors=True)
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    orientation = (*matrix[:, 0], *matrix[:, 1])
    hu = sample_hu(4, 7, 6)
    pixel_spacing = (round(spacing[0], 6), round(spacing[1], 6))
    write_series(
        folder, hu, orientation=orientation, origin=origin, pixel_spacing=pixel_spacing, step=round(spacing[2], 6)
    )
    volume = read_volume(folder)
    voxels, affine = itk_series(folder)
    index = np.vstack([np.indices(voxels.shape).reshape(3, -1), np.ones(voxels.size)])
    np.testing.assert_allclose(volume.affine.numpy() @ index, affine @ index, atol=1e-4)
    np.testing.assert_array_equal(volume[0].numpy(), voxels)


def test_slices_run_along_the_normal_whatever_the_file_order(tmp_path: Path) -> None:
    hu = sample_hu()
    write_series(tmp_path / "up", hu)
    write_series(tmp_path / "down", hu[::-1], origin=(-20.0, -30.0, 48.0), step=-2.0)
    up, down = read_volume(tmp_path / "up"), read_volume(tmp_path / "down")
    np.testing.assert_array_equal(up.numpy(), down.numpy())
    np.testing.assert_allclose(up.affine.numpy(), down.affine.numpy())


def test_each_slice_uses_its_own_rescale(tmp_path: Path) -> None:
    hu = sample_hu() // 2 * 2

    def edit(k: int, ds: pydicom.Dataset) -> None:
        if k % 2:
            ds.PixelData = ((hu[k] + 2000) // 2).astype("<u2").tobytes()
            ds.RescaleSlope, ds.RescaleIntercept = 2, -2000

    write_series(tmp_path, hu, edit=edit)
    np.testing.assert_array_equal(read_volume(tmp_path)[0].numpy(), hu.transpose(2, 1, 0))


@pytest.mark.parametrize(("padding", "vr"), [(-2000, "implicit"), (-2000, "explicit"), (-3024, "explicit")])
def test_padding_becomes_air(tmp_path: Path, padding: int, vr: str) -> None:
    hu = sample_hu()

    def edit(k: int, ds: pydicom.Dataset) -> None:
        stored = hu[k].copy()
        stored[0, :3] = padding
        stored[0, 3] = padding + 10
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
        ds.PixelData = stored.astype("<i2").tobytes()
        ds.add_new("PixelPaddingValue", "SS", padding)
        ds.add_new("PixelPaddingRangeLimit", "SS", padding + 10)
        if vr == "implicit":
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    write_series(tmp_path, hu, edit=edit)
    values = read_volume(tmp_path)[0].numpy()
    assert (values[:4, 0] == -1024).all()
    np.testing.assert_array_equal(values[:, 1:], hu.transpose(2, 1, 0)[:, 1:])


def test_padding_written_with_the_wrong_sign_becomes_air(tmp_path: Path) -> None:
    hu = sample_hu()

    def edit(k: int, ds: pydicom.Dataset) -> None:
        stored = hu[k].copy()
        stored[0] = -2000
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
        ds.PixelData = stored.astype("<i2").tobytes()
        ds.add_new("PixelPaddingValue", "US", 63536)

    write_series(tmp_path, hu, edit=edit)
    assert (read_volume(tmp_path)[0, :, 0].numpy() == -1024).all()


def big_endian(ds: pydicom.Dataset) -> None:
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


@pytest.mark.parametrize(
    "finish",
    [
        pytest.param(big_endian, id="big-endian"),
        pytest.param(lambda ds: ds.compress(RLELossless), id="rle"),
        pytest.param(lambda ds: ds.compress(JPEG2000Lossless), id="jpeg2000"),
        pytest.param(lambda ds: ds.compress(JPEGLSLossless), id="jpeg-ls"),
    ],
)
def test_encodings_of_pydicom_give_the_same_hu(tmp_path: Path, finish: Callable[[pydicom.Dataset], None]) -> None:
    hu = sample_hu(rows=32, columns=32)
    write_series(tmp_path, hu, finish=finish)
    np.testing.assert_array_equal(read_volume(tmp_path)[0].numpy(), hu.transpose(2, 1, 0))


@pytest.mark.parametrize("command", ["dcmcjpeg +e1", "dcmcjpls", "dcmcrle"])
def test_encodings_of_dcmtk_give_the_same_hu(tmp_path: Path, command: str) -> None:
    program, *options = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} (DCMTK) is not installed")
    hu = sample_hu(rows=32, columns=32)
    write_series(tmp_path / "plain", hu)
    (tmp_path / "packed").mkdir()
    for file in (tmp_path / "plain").iterdir():
        subprocess.run([program, *options, str(file), str(tmp_path / "packed" / file.name)], check=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "packed")[0].numpy(), hu.transpose(2, 1, 0))


def test_progress_counts_slices(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu())
    calls: list[tuple[int, int]] = []
    read_volume(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 5) for k in range(1, 6)]


def test_positions_rounded_to_a_tenth_are_accepted(tmp_path: Path) -> None:
    def edit(k: int, ds: pydicom.Dataset) -> None:
        ds.ImagePositionPatient = [-20, -30, round(k * 0.625, 1)]

    write_series(tmp_path, sample_hu(9), edit=edit)
    assert read_volume(tmp_path).affine[2, 2].item() == pytest.approx(0.625, abs=0.01)


def test_localizers_reports_and_stray_files_are_passed_over(tmp_path: Path) -> None:
    hu = sample_hu()
    uid = write_series(tmp_path / "ct", hu)

    def scout(_: int, ds: pydicom.Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    def report(_: int, ds: pydicom.Dataset) -> None:
        ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
        del ds.Rows, ds.Columns, ds.PixelData

    def capture(_: int, ds: pydicom.Dataset) -> None:
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"

    write_series(tmp_path / "same_uid_scout", hu[:1], series_uid=uid, edit=scout)
    write_series(tmp_path / "scout", hu[:2], edit=scout)
    write_series(tmp_path / "report", hu[:1], edit=report)
    write_series(tmp_path / "capture", hu[:1], edit=capture)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    assert read_volume(tmp_path).meta["series_uid"] == uid
    (info,) = list_series(tmp_path)
    assert (info.series_uid, info.modality, info.n_files, info.n_slices) == (uid, "CT", 5, 5)
    assert (info.rows, info.columns, info.folder) == (16, 12, tmp_path / "ct")
    assert info.description == "portal venous"
    assert "Secret" not in repr(info)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # pydicom remarks on the escape while writing
def test_single_image_type_and_control_characters_are_handled(tmp_path: Path) -> None:
    def scout(_: int, ds: pydicom.Dataset) -> None:
        ds.ImageType = "LOCALIZER"

    def describe(_: int, ds: pydicom.Dataset) -> None:
        ds.SeriesDescription = "portal\x1b[2J\nvenous"

    write_series(tmp_path, sample_hu(), edit=describe)
    write_series(tmp_path / "scout", sample_hu(), edit=scout)
    os.mkfifo(tmp_path / "pipe")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (info,) = list_series(tmp_path)
    assert info.description == "portal [2J venous"


def test_other_modalities_are_refused_or_left_aside(tmp_path: Path) -> None:
    def mr(_: int, ds: pydicom.Dataset) -> None:
        ds.Modality, ds.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"

    uid = write_series(tmp_path / "mr", sample_hu(), edit=mr)
    assert "(MR, portal venous, 5 slices), expected a CT series" in refusal(tmp_path)
    ct = write_series(tmp_path / "ct", sample_hu())
    assert read_volume(tmp_path).meta["series_uid"] == ct
    assert "expected a CT series" in refusal(tmp_path, series_uid=uid)


def test_deidentified_series_without_uids_is_read(tmp_path: Path) -> None:
    def strip(_: int, ds: pydicom.Dataset) -> None:
        ds.SeriesInstanceUID = ds.SOPInstanceUID = ds.SOPClassUID = ""

    def save(ds: pydicom.Dataset) -> None:
        ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

    write_series(tmp_path, sample_hu(), edit=strip, finish=save)
    assert read_volume(tmp_path).meta["series_uid"] is None


def test_rounded_directions_give_right_angled_axes(tmp_path: Path) -> None:
    matrix = Rotation.from_euler("xyz", [3.0, 14.0, -8.0], degrees=True).as_matrix()
    exact = (*matrix[:, 0], *matrix[:, 1])

    def edit(_: int, ds: pydicom.Dataset) -> None:
        ds.ImageOrientationPatient = [round(value, 4) for value in exact]

    write_series(tmp_path, sample_hu(), orientation=exact, edit=edit)
    axes = read_volume(tmp_path).affine.numpy()[:3, :3] / np.array([0.7, 0.8, 2.0])
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(np.diag([-1, -1, 1]) @ axes[:, 2], normal_of(exact), atol=1e-4)


def test_jpeg_followed_by_a_padding_byte_is_read(tmp_path: Path) -> None:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg (DCMTK) is not installed")
    hu = sample_hu(rows=32, columns=32)
    write_series(tmp_path, hu)
    for file in tmp_path.iterdir():
        subprocess.run(["dcmcjpeg", "+e1", str(file), str(file)], check=True)
        ds = pydicom.dcmread(file)
        frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData = pydicom.encaps.encapsulate([frame.rstrip(b"\0") + b"\x9f"])
        ds.save_as(file)
    np.testing.assert_array_equal(read_volume(tmp_path)[0].numpy(), hu.transpose(2, 1, 0))


def test_enhanced_multi_frame_file_lies_where_highdicom_puts_it(tmp_path: Path) -> None:
    hu = sample_hu(6)
    write_enhanced(tmp_path / "enhanced.dcm", hu)
    oracle = highdicom.imread(tmp_path / "enhanced.dcm").get_volume(apply_modality_transform=True)
    # highdicom indexes (slice, row, column) from the top slice down; we index (column, row, slice) upwards.
    slices, rows, columns = np.indices((6, 16, 12)).reshape(3, -1)
    ones = np.ones(slices.size)
    expected = np.diag([-1, -1, 1, 1]) @ oracle.affine @ np.stack([slices, rows, columns, ones])
    for path in (tmp_path, tmp_path / "enhanced.dcm"):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume[0].numpy(), hu.transpose(2, 1, 0))
        np.testing.assert_array_equal(volume[0].numpy(), oracle.array[::-1].transpose(2, 1, 0))
        points = volume.affine.numpy() @ np.stack([columns, rows, 5 - slices, ones])
        np.testing.assert_allclose(points, expected, atol=1e-9)
    assert list_series(tmp_path)[0].n_slices == 6


def test_tilted_enhanced_file_lies_where_its_frames_say(tmp_path: Path) -> None:
    hu = sample_hu(6)
    write_enhanced(tmp_path / "enhanced.dcm", hu, orientation=tilted(15.0))
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume[0].numpy(), hu.transpose(2, 1, 0))
    corners = volume.affine.numpy() @ np.array([[0, 0, 0, 1], [11, 15, 0, 1], [0, 0, 5, 1], [11, 15, 5, 1]]).T
    expected = []
    for k in (0, 5):
        to_patient = highdicom.spatial.PixelToReferenceTransformer([-20, -30, 40 + 2 * k], tilted(15.0), [0.8, 0.7])
        expected.append(to_patient(np.array([[0, 0], [11, 15]])))
    np.testing.assert_allclose(corners[:3].T * [-1, -1, 1], np.concatenate(expected), atol=1e-9)
    assert volume.meta["repairs"].startswith("gantry tilt of 15.0 degrees")


@pytest.mark.parametrize("kind", ["time", "energy", "cardiac phase"])
def test_phases_of_an_enhanced_file_are_split_and_read_one_by_one(tmp_path: Path, kind: str) -> None:
    hu = sample_hu(12)

    def edit(k: int, frame: pydicom.Dataset) -> None:
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20, -30, 40 + 2 * (k % 6)]
        item = pydicom.Dataset()
        if kind == "time":
            item.TemporalPositionIndex = 1 + k // 6
            frame.FrameContentSequence = [item]
        elif kind == "energy":
            item.KVP = (80, 140)[k // 6]
            frame.CTXRayDetailsSequence = [item]
        else:
            item.NominalPercentageOfCardiacPhase = (35.0, 75.0)[k // 6]
            frame.CardiacSynchronizationSequence = [item]

    write_enhanced(tmp_path / "enhanced.dcm", hu, edit=edit)
    first, second = list_series(tmp_path)
    assert [info.verdict for info in (first, second)] == ["usable", "usable"]
    assert (first.n_files, first.n_slices, second.n_slices) == (1, 6, 6)
    assert "choose one with --series-uid" in refusal(tmp_path)
    for info, part in ((first, hu[:6]), (second, hu[6:])):
        volume = read_volume(tmp_path, series_uid=info.name)
        np.testing.assert_array_equal(volume[0].numpy(), part.transpose(2, 1, 0))


def test_series_of_two_enhanced_files_is_one_volume(tmp_path: Path) -> None:
    hu = sample_hu(10)
    for number, part in enumerate((hu[:5], hu[5:])):

        def move(k: int, frame: pydicom.Dataset, number: int = number) -> None:
            frame.PlanePositionSequence[0].ImagePositionPatient = [-20, -30, 40 + 2 * (k + 5 * number)]

        write_enhanced(tmp_path / f"{number}.dcm", part, edit=move)
    ds, other = (pydicom.dcmread(tmp_path / f"{number}.dcm") for number in (0, 1))
    other.SeriesInstanceUID, other.FrameOfReferenceUID = ds.SeriesInstanceUID, ds.FrameOfReferenceUID
    other.save_as(tmp_path / "1.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path)[0].numpy(), hu.transpose(2, 1, 0))
    assert list_series(tmp_path)[0].n_files == 2


@pytest.mark.parametrize(
    ("archive", "shape"),
    [("chaos03_abdomen", (512, 512, 78)), ("kits00072_partial", (512, 512, 18)), ("totalseg_j2k", (512, 512, 20))],
)
def test_real_series_equals_itk(shared_data: Path, tmp_path: Path, archive: str, shape: tuple[int, ...]) -> None:
    file = shared_data / "series" / f"{archive}.zip"
    if not file.exists():
        pytest.skip(f"{file.name} is not on this machine")
    with zipfile.ZipFile(file) as zipped:
        zipped.extractall(tmp_path)
    volume = read_volume(tmp_path)
    (info,) = list_series(tmp_path)
    voxels, affine = itk_series(info.folder, info.series_uid)
    assert volume.shape == (1, *shape)
    np.testing.assert_array_equal(volume[0].numpy(), voxels)
    np.testing.assert_allclose(volume.affine.numpy(), affine, atol=1e-4)


def test_one_reader_that_is_done_leaves_another_thread_quiet_and_the_last_all_as_it_was() -> None:
    logger, filters = logging.getLogger("pydicom"), list(warnings.filters)
    first, second = quiet_pydicom(), quiet_pydicom()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logger.disabled
    with warnings.catch_warnings(record=True) as said:
        warnings.warn("PatientName", stacklevel=1)
    assert not said
    second.__exit__(None, None, None)
    assert not logger.disabled
    assert warnings.filters == filters
