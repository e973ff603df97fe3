"""What cannot be placed exactly is refused, with one line that says why."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_files import refusal, sample_hu, write_enhanced, write_series
from pydicom.uid import JPEG2000Lossless

from klip_monai.errors import InputError
from klip_monai.io import list_series, read_volume

Edit = Callable[[int, pydicom.Dataset], None]


def test_padding_that_means_tissue_is_refused(tmp_path: Path) -> None:
    def edit(_: int, ds: pydicom.Dataset) -> None:
        ds.PixelPaddingValue = int(np.frombuffer(ds.PixelData, "<u2")[0])

    hu = sample_hu()
    hu[:, 0, 0] = 40
    write_series(tmp_path, hu, edit=edit)
    assert "stands for 40 HU" in refusal(tmp_path)


def test_several_ct_series_ask_for_the_uid(tmp_path: Path) -> None:
    first, second = write_series(tmp_path / "a", sample_hu()), write_series(tmp_path / "b", sample_hu(seed=1))
    message = refusal(tmp_path)
    assert "--series-uid" in message
    assert first in message
    assert second in message
    assert "portal venous, 5 slices" in message
    np.testing.assert_array_equal(
        read_volume(tmp_path, series_uid=second)[0].numpy(), sample_hu(seed=1).transpose(2, 1, 0)
    )
    assert "found" in refusal(tmp_path, series_uid="1.2.3")


def edited(**tags: object) -> Edit:
    """An edit that sets tags on the third slice, or deletes those set to None."""

    def edit(k: int, ds: pydicom.Dataset) -> None:
        for keyword, value in tags.items():
            if k == 2 and value is None:
                delattr(ds, keyword)
            elif k == 2:
                setattr(ds, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        pytest.param(edited(ImagePositionPatient=[-20, -30, 42]), "1 gap(s) between slices", id="misplaced"),
        pytest.param(edited(ImagePositionPatient=[-20, -30, 44.5]), "slice distances from 1.50 mm", id="uneven"),
        pytest.param(edited(ImagePositionPatient=[-18, -30, 44]), "shifted sideways by up to 2.00 mm", id="shifted"),
        pytest.param(edited(ImageOrientationPatient=[0, 1, 0, -1, 0, 0]), "mixed ImageOrientationPatient", id="turned"),
        pytest.param(edited(PixelSpacing=[0.8, 0.9]), "mixed PixelSpacing", id="pixel-spacing"),
        pytest.param(edited(Rows=8, Columns=24), "mixed Rows x Columns (16 x 12 on 4 slice(s)", id="matrix"),
        pytest.param(edited(FrameOfReferenceUID="1.2.3"), "mixed FrameOfReferenceUID", id="frame-of-reference"),
        pytest.param(edited(ImagePositionPatient=None), "no usable ImagePositionPatient", id="no-position"),
        pytest.param(edited(PixelSpacing=None), "no usable PixelSpacing", id="no-pixel-spacing"),
        pytest.param(edited(RescaleSlope=None), "no usable RescaleSlope", id="no-slope"),
        pytest.param(edited(RescaleIntercept=None), "no usable RescaleIntercept", id="no-intercept"),
        pytest.param(edited(RescaleSlope=0), "RescaleSlope 0", id="zero-slope"),
        pytest.param(edited(RescaleType="US"), "RescaleType 'US', expected HU", id="unit"),
        pytest.param(edited(PixelData=b"\0\0" * 20), "cut off or cannot be decoded", id="short-pixels"),
        pytest.param(edited(PixelData=None), "cut off or cannot be decoded", id="no-pixels"),
        pytest.param(edited(SamplesPerPixel=3), "1 frame(s) of 3 value(s) a pixel", id="colour"),
        pytest.param(edited(NumberOfFrames=2), "2 frame(s) of 1 value(s) a pixel", id="frames"),
        pytest.param(edited(PixelSpacing=[0.8, 0]), "mixed PixelSpacing", id="zero-pixel-spacing"),
        pytest.param(edited(Rows=None), "1 x damaged file among its files", id="no-rows"),
    ],
)
def test_one_bad_slice_is_refused_with_the_reason(tmp_path: Path, edit: Edit, reason: str) -> None:
    write_series(tmp_path, sample_hu(), edit=edit)
    assert reason in refusal(tmp_path)


def test_missing_slice_is_named_with_its_gap(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu(8))
    for file in tmp_path.iterdir():
        if pydicom.dcmread(file).ImagePositionPatient[2] == 46:
            file.unlink()
    message = refusal(tmp_path)
    assert "1 gap(s) between slices, first 4.00 mm wide between 44.00 mm and 48.00 mm" in message
    assert "a slice every 2.00 mm" in message


def test_impossible_gantry_tilt_is_refused_with_its_angle(tmp_path: Path) -> None:
    tilt = np.radians(40.0)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(-np.sin(tilt)))

    def edit(k: int, ds: pydicom.Dataset) -> None:
        ds.ImagePositionPatient = [-20, -30, 40 + 5 * k]

    write_series(tmp_path, sample_hu(12), orientation=orientation, edit=edit)
    assert "gantry tilt of 40.0 degrees" in refusal(tmp_path)


def test_spacing_that_drifts_by_less_than_a_step_is_refused(tmp_path: Path) -> None:
    def edit(k: int, ds: pydicom.Dataset) -> None:
        ds.ImagePositionPatient = [-20, -30, k * 2.0 + max(0, k - 10) * 0.15]

    write_series(tmp_path, sample_hu(20, 4, 4), edit=edit)
    assert "slice distances from 2.00 mm to 2.15 mm" in refusal(tmp_path)


def test_directions_that_are_not_at_a_right_angle_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu(), orientation=(1.0, 0.0, 0.0, 0.1, 0.995, 0.0))
    assert "right angle" in refusal(tmp_path)


@pytest.mark.parametrize("n_slices", [1, 2])
def test_too_few_slices_are_refused(tmp_path: Path, n_slices: int) -> None:
    write_series(tmp_path, sample_hu(n_slices))
    assert f"got {n_slices} slice(s), expected at least 3" in refusal(tmp_path)


def test_single_slice_file_is_refused_with_a_hint_at_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu())
    message = refusal(next(tmp_path.iterdir()))
    assert "got 1 slice(s)" in message
    assert "give the folder with the whole series" in message


@pytest.mark.parametrize("cut", [300, 700, -100])
def test_truncated_file_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    write_series(tmp_path, sample_hu())
    (tmp_path / "I2").write_bytes((tmp_path / "I2").read_bytes()[:cut])
    message = refusal(tmp_path)
    assert "'I2'" in message
    assert "cut off" in message or "damaged" in message


def test_undecodable_pixels_are_refused_with_the_encoding(tmp_path: Path) -> None:
    def garble(ds: pydicom.Dataset) -> None:
        ds.compress(JPEG2000Lossless)
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(64)])

    write_series(tmp_path, sample_hu(rows=32, columns=32), finish=garble)
    assert "cannot be decoded (JPEG 2000" in refusal(tmp_path)


@pytest.mark.parametrize("command", ["dcmcjpeg +e1", "dcmcjpls"])
def test_cut_off_jpeg_is_refused_though_decoders_fill_it_up(tmp_path: Path, command: str) -> None:
    program, *options = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} (DCMTK) is not installed")
    write_series(tmp_path, sample_hu(rows=32, columns=32))
    for file in tmp_path.iterdir():
        subprocess.run([program, *options, str(file), str(file)], check=True)
    ds = pydicom.dcmread(tmp_path / "I1")
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 4 * 2]])
    ds.save_as(tmp_path / "I1")
    assert "'I1': got pixels that are cut off" in refusal(tmp_path)


def test_values_that_are_not_hu_are_refused_with_their_range(tmp_path: Path) -> None:
    def raw(_: int, ds: pydicom.Dataset) -> None:
        ds.RescaleIntercept = 0

    write_series(tmp_path, np.clip(sample_hu(), -1024, -770), edit=raw)
    message = refusal(tmp_path)
    assert "which are not HU" in message
    assert "to 254" in message


def test_enhanced_files_that_are_no_single_hu_volume_are_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a", sample_hu(), unit="US")
    assert "RescaleType 'US'" in refusal(tmp_path)
    write_enhanced(tmp_path / "a", sample_hu(), step=0.0)
    assert "occupied position" in refusal(tmp_path)


def test_places_without_a_scan_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "no file" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert "1 x not DICOM" in refusal(tmp_path)
    assert "no known format" in refusal(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="existing folder"):
        list_series(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        ("scattered_slices", "from 1.00 mm to 119.00 mm"),
        ("dcmqi_mixed", "--series-uid"),
        ("pydicom_multiframe_and_compressed", "--series-uid"),
        ("highdicom_mixed", "expected at least 3"),
        ("undecodable_j2k", "expected"),
        ("sagittal_jpeg_lossless", "--series-uid"),
    ],
)
def test_real_awkward_data_is_refused_with_a_reason(
    shared_data: Path, tmp_path: Path, archive: str, reason: str
) -> None:
    file = shared_data / "robust" / f"{archive}.zip"
    if not file.exists():
        pytest.skip(f"{file.name} is not on this machine")
    with zipfile.ZipFile(file) as zipped:
        zipped.extractall(tmp_path)
    assert reason in refusal(tmp_path)
