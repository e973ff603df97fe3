from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from ct_files import refusal, sample_hu, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from klip_monai.io import index_series, read_volume
from klip_monai.io.read import safe_name

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume_hu() -> np.ndarray:
    return sample_hu(6, 5, 4).transpose(2, 1, 0)


def oblique() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10.0, -25.0, 40.0], degrees=True).as_matrix() * [0.7, 0.8, 2.5]
    affine[:3, 3] = [12.0, -34.0, 56.0]
    return affine


def write_nifti(
    path: Path,
    values: np.ndarray,
    *,
    sform: np.ndarray | None,
    qform: np.ndarray | None = None,
    unit: str = "mm",
) -> Path:
    image = nib.Nifti1Image(values, None)
    image.header.set_xyzt_units(unit)
    image.set_sform(sform, code=1 if sform is not None else 0)
    image.set_qform(qform, code=1 if qform is not None else 0)
    nib.save(image, path)
    return path


def itk_image(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """SimpleITK image of (X, Y, Z) values on a RAS affine."""
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_file_written_by_itk_keeps_voxels_and_place(tmp_path: Path, suffix: str) -> None:
    hu, affine = volume_hu(), oblique()
    path = tmp_path / f"CT müller 7{suffix}"
    sitk.WriteImage(itk_image(hu, affine), str(path))
    volume = read_volume(path)
    assert volume.dtype == torch.float32
    assert volume.affine.dtype == torch.float64
    np.testing.assert_array_equal(volume[0].numpy(), hu)
    np.testing.assert_allclose(volume.affine.numpy(), affine, atol=1e-4)
    meta = volume.meta
    assert meta["format"] == ("nifti" if suffix.startswith(".nii") else "nrrd")
    assert meta["name"] == "CT_m_ller_7"
    assert (meta["series_uid"], meta["modality"], meta["space"]) == (None, None, "RAS")
    assert meta["filename_or_obj"] == str(path)
    assert list(meta["spatial_shape"]) == [4, 5, 6]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), flip=st.sampled_from([1.0, -1.0]))
def test_nrrd_and_nifti_of_one_volume_agree(tmp_path: Path, angles: tuple[float, ...], flip: float) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [0.7 * flip, 0.8, 2.5]
    affine[:3, 3] = [-100.0, 20.0, 300.0]
    sitk.WriteImage(itk_image(volume_hu(), affine), str(tmp_path / "a.nrrd"))
    write_nifti(tmp_path / "a.nii", volume_hu(), sform=affine)
    nrrd, nifti = read_volume(tmp_path / "a.nrrd"), read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(nrrd.affine.numpy(), nifti.affine.numpy(), atol=1e-4)
    np.testing.assert_array_equal(nrrd.numpy(), nifti.numpy())


def test_ras_nrrd_keeps_its_side(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 4 5 6\n"
        "space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (12,-34,56)\n\n"
    )
    (tmp_path / "ras.nrrd").write_bytes(header.encode() + volume_hu().astype("<i2").tobytes("F"))
    volume = read_volume(tmp_path / "ras.nrrd")
    expected = np.diag([0.7, 0.8, 2.5, 1.0])
    expected[:3, 3] = [12, -34, 56]
    np.testing.assert_allclose(volume.affine.numpy(), expected, atol=1e-9)
    np.testing.assert_array_equal(volume[0].numpy(), volume_hu())
    (tmp_path / "no_space.nrrd").write_bytes(
        header.replace("space: right-anterior-superior", "space dimension: 3").encode()
        + volume_hu().astype("<i2").tobytes("F")
    )
    assert "without space (LPS or RAS)" in refusal(tmp_path / "no_space.nrrd")


def test_meta_image_without_geometry_is_refused(tmp_path: Path) -> None:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "bare.mha").write_bytes(header.encode() + volume_hu().astype("<i2").tobytes("F"))
    assert "TransformMatrix" in refusal(tmp_path / "bare.mha")


def test_nifti_scaling_and_single_fourth_axis_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image((volume_hu() // 2 + 500)[..., None], oblique())
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "scaled.nii.gz")
    # nibabel keeps the stored integers when slope and intercept are given.
    np.testing.assert_array_equal(
        read_volume(tmp_path / "scaled.nii.gz")[0].numpy(), nib.load(tmp_path / "scaled.nii.gz").get_fdata()[..., 0]
    )


def test_nifti_takes_the_form_that_is_set(tmp_path: Path) -> None:
    affine = oblique()
    for name, forms in {"s": (affine, None), "q": (None, affine), "both": (affine, affine)}.items():
        path = write_nifti(tmp_path / f"{name}.nii", volume_hu(), sform=forms[0], qform=forms[1])
        np.testing.assert_allclose(read_volume(path).affine.numpy(), affine, atol=1e-4)


def test_nifti_without_a_set_form_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", volume_hu(), sform=None)
    assert "qform code 0 and sform code 0" in refusal(path)


def test_nifti_with_contradicting_forms_is_refused_showing_both(tmp_path: Path) -> None:
    mirrored = np.diag([-1.0, 1, 1, 1]) @ oblique()
    message = refusal(write_nifti(tmp_path / "a.nii", volume_hu(), sform=oblique(), qform=mirrored))
    assert "qform [[" in message
    assert "sform [[" in message
    assert "-12.0" in message


def test_nifti_in_other_units_is_refused(tmp_path: Path) -> None:
    assert "'meter', expected mm" in refusal(
        write_nifti(tmp_path / "a.nii", volume_hu(), sform=oblique(), unit="meter")
    )


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_files_that_are_no_single_volume_are_refused(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    values = np.zeros(shape, np.int16)
    if suffix == ".nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=False), str(path))
    else:
        write_nifti(path, values, sform=np.eye(4))
    assert "expected one grey volume" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    hu = volume_hu().astype(np.float32)
    hu[1, 2, 3] = value
    assert "NaN or infinite" in refusal(write_nifti(tmp_path / "a.nii", hu, sform=oblique()))


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-160, 240), (-1024, -1000)])
def test_values_that_are_not_hu_are_refused_with_their_range(tmp_path: Path, low: int, high: int) -> None:
    values = np.linspace(low, high, 120).round().astype(np.int16).reshape(4, 5, 6)
    message = refusal(write_nifti(tmp_path / "a.nii", values, sform=oblique()))
    assert f"got values from {low} to {high}, which are not HU" in message


def test_sheared_grid_is_refused(tmp_path: Path) -> None:
    affine = oblique()
    affine[:3, 1] += 0.02 * affine[:3, 0]
    assert "sheared" in refusal(write_nifti(tmp_path / "a.nii", volume_hu(), sform=affine))


def test_collapsed_grid_and_sliver_are_refused(tmp_path: Path) -> None:
    flat = np.diag([0.7, 0.8, 0.0, 1.0])
    assert "spacing" in refusal(write_nifti(tmp_path / "a.nii", volume_hu(), sform=flat))
    assert "at least 3 voxels" in refusal(write_nifti(tmp_path / "b.nii", volume_hu()[..., :2], sform=oblique()))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("content", ["text", "cut"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(sample_hu(40, 40, 40).transpose(2, 1, 0), oblique()), str(path))
    path.write_bytes(b"no image" if content == "text" else path.read_bytes()[:-3000])
    refusal(path)


def test_series_uid_with_a_file_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", volume_hu(), sform=oblique())
    assert "DICOM only" in refusal(path, series_uid="1.2.3")


def test_names_for_outputs_are_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert safe_name("/data/case 1.nii.gz") == "case_1"
    assert safe_name("CT.1.2.840.NRRD") == "CT.1.2.840"
    assert safe_name("../...nii") == "volume"
    assert safe_name("a/$(rm)\n/..;x.mha") == "x"
    (tmp_path / "study.nrrd").mkdir()
    assert safe_name(tmp_path / "study.nrrd") == "study.nrrd"
    monkeypatch.chdir(tmp_path / "study.nrrd")
    assert safe_name(".") == "study.nrrd"


def picture(tmp_path: Path, hu: np.ndarray, low: float, high: float) -> Path:
    """An 8-bit picture of a window, as a converter without mercy writes it."""
    values = np.clip((hu - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    nib.save(nib.Nifti1Image(values, np.diag([-0.7, -0.8, 2.0, 1.0])), tmp_path / "picture.nii.gz")
    return tmp_path / "picture.nii.gz"


def test_picture_of_a_known_window_is_mapped_back_only_when_asked(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).uniform(-1000, 1000, (6, 7, 8))
    path = picture(tmp_path, hu, -160, 240)
    assert "--hu-window" in refusal(path)
    volume = read_volume(path, hu_window=(-160, 240))
    inside = (hu > -159) & (hu < 240)
    np.testing.assert_allclose(volume[0].numpy()[inside], hu[inside], atol=0.8)
    assert (volume[0].numpy()[hu < -161] == -1024).all()
    assert (volume[0].numpy()[hu > 240] == 240).all()
    assert volume.meta["repairs"] == "8-bit picture of -160 to 240 HU mapped back, its black taken for air"


def test_window_is_refused_where_the_values_are_no_picture(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).uniform(-1000, 1000, (6, 7, 8))
    path = picture(tmp_path, hu, -160, 240)
    assert "low < high" in refusal(path, hu_window=(240, -160))
    assert "two HU" in refusal(path, hu_window=(240,))
    nib.save(nib.Nifti1Image(hu.astype(np.float32), np.eye(4)), tmp_path / "hu.nii.gz")
    assert "leave it out if they are HU already" in refusal(tmp_path / "hu.nii.gz", hu_window=(-160, 240))
    write_series(tmp_path / "dicom", sample_hu())
    assert "leave it out" in refusal(tmp_path / "dicom", hu_window=(-160, 240))


def test_a_qform_near_half_a_turn_may_be_as_far_off_as_float32_quaternions_are(tmp_path: Path) -> None:
    draw = np.random.default_rng(106)
    turn = Rotation.from_euler("zxy", (180, *draw.uniform(-2, 2, 2)), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn * [2.25, 2.25, 30.0]
    affine[:3, 3] = draw.uniform(-300, 300, 3)
    image = nib.Nifti1Image(np.full((160, 160, 10), -1000, np.int16), affine)
    np.asarray(image.dataobj)[60:100, 60:100] = 40
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "turned.nii")
    written = nib.load(tmp_path / "turned.nii")
    far = np.array([159, 159, 9, 1])
    assert np.linalg.norm((written.get_qform() - written.get_sform()) @ far) > 0.1
    np.testing.assert_allclose(read_volume(tmp_path / "turned.nii").affine, affine, atol=1e-4)


@pytest.mark.parametrize("forms", ["qform only", "both"])
def test_a_slight_turn_beside_half_a_turn_is_read_though_nibabel_takes_it_for_none(forms: str, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec([0, 0, np.pi - 1.1e-3]).as_matrix() * [2.0, 2.0, 5.0]
    values = np.full((200, 200, 3), -1000, np.int16)
    values[60:140, 60:140] = 40
    path = write_nifti(tmp_path / "turned.nii", values, sform=affine if forms == "both" else None, qform=affine)
    far = np.array([199, 199, 2, 1])
    assert np.linalg.norm((nib.load(path).header.get_qform() - affine) @ far) > 0.5
    assert np.linalg.norm((np.asarray(read_volume(path).affine) - affine) @ far) < 0.1


@pytest.mark.parametrize("axes", [(1,), (1, 1), (1, 1, 1)])
def test_further_nifti_axes_of_one_voxel_are_dropped(tmp_path: Path, axes: tuple[int, ...]) -> None:
    values = volume_hu()
    write_nifti(tmp_path / "a.nii.gz", values.reshape(*values.shape, *axes), sform=oblique())
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0].numpy(), values)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("change", "name"), [(gzip.decompress, "b.nii.gz"), (bytes, "b.nii")])
def test_a_nifti_file_is_read_whether_packed_or_not_whatever_its_name_says(
    tmp_path: Path, kind: type, change: Callable[[bytes], bytes], name: str
) -> None:
    nib.save(kind(volume_hu(), oblique()), tmp_path / "a.nii.gz")
    (tmp_path / name).write_bytes(change((tmp_path / "a.nii.gz").read_bytes()))
    volume, plain = read_volume(tmp_path / name), read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.numpy(), plain.numpy())
    np.testing.assert_array_equal(volume.affine, plain.affine)
    assert len(index_series(tmp_path).series) == 2


def test_a_companion_file_of_macos_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "._a.nii.gz").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(140))
    assert "companion file of macOS" in refusal(tmp_path / "._a.nii.gz")


@pytest.mark.parametrize("factor", [0.1, 10.0, 1.05])
def test_pixdim_that_contradicts_the_sform_is_refused(tmp_path: Path, factor: float) -> None:
    image = nib.Nifti1Image(volume_hu(), oblique())
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    read_volume(tmp_path / "a.nii")
    image.header["pixdim"][1:4] *= factor
    nib.save(image, tmp_path / "a.nii")
    assert "by pixdim and of" in refusal(tmp_path / "a.nii")


@pytest.mark.parametrize("unit", ["cm", "um", "m", "in"])
def test_lengths_in_other_units_than_mm_are_refused(tmp_path: Path, unit: str) -> None:
    image = sitk.GetImageFromArray(volume_hu().transpose(2, 1, 0))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    data = (tmp_path / "a.nrrd").read_bytes()
    for one, fine in ((unit, False), ("mm", True)):
        units = f'space units: "{one}" "{one}" "{one}"\nspace origin:'.encode()
        (tmp_path / "b.nrrd").write_bytes(data.replace(b"space origin:", units, 1))
        if fine:
            read_volume(tmp_path / "b.nrrd")
        else:
            assert f"lengths in {unit!r}" in refusal(tmp_path / "b.nrrd")
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    data = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "b.mha").write_bytes(data.replace(b"DimSize", f"DistanceUnits = {unit}\nDimSize".encode(), 1))
    assert f"lengths in {unit!r}" in refusal(tmp_path / "b.mha")


@pytest.mark.parametrize("scale", [100.0, 1000.0])
@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_a_scan_larger_than_any_body_is_refused(tmp_path: Path, scale: float, suffix: str) -> None:
    image = sitk.GetImageFromArray(volume_hu().transpose(2, 1, 0))
    image.SetSpacing((0.7 * scale, 0.8 * scale, 2 * scale))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert "as no body is larger" in refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "synonym"),
    [
        ("Offset", "Position"),
        ("Offset", "Origin"),
        ("TransformMatrix", "Rotation"),
        ("TransformMatrix", "Orientation"),
        ("ElementSpacing", "ElementSize"),
    ],
)
def test_metaimage_synonyms_are_read(tmp_path: Path, name: str, synonym: str) -> None:
    image = sitk.GetImageFromArray(volume_hu().transpose(2, 1, 0))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((7, 8, 9))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    data = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "b.mha").write_bytes(data.replace(f"{name} =".encode(), f"{synonym} =".encode()))
    np.testing.assert_array_equal(read_volume(tmp_path / "b.mha").affine, read_volume(tmp_path / "a.mha").affine)
    (tmp_path / "c.mha").write_bytes(data.replace(f"{name} =".encode(), f"X{name} =".encode()))
    assert f"without {name}" in refusal(tmp_path / "c.mha")


def test_metaimage_synonyms_that_differ_are_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(volume_hu().transpose(2, 1, 0)), str(tmp_path / "a.mha"))
    data = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(data.replace(b"Offset =", b"Origin = 1 1 1\nOffset =", 1))
    assert "Offset, Origin that differ" in refusal(tmp_path / "a.mha")


@pytest.mark.parametrize("remark", [b"x" * 900, b"x" * 20000, b"Universit\xe4t", "Universität".encode(), b"a\x01b"])
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_remarks_of_any_length_and_code_are_passed_by(tmp_path: Path, remark: bytes, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(volume_hu().transpose(2, 1, 0)), str(file))
    plain, data = read_volume(file), file.read_bytes()
    begin, mark = (b"DimSize", b"Remark = ") if suffix == ".mha" else (b"dimension", b"Remark:=")
    file.write_bytes(data.replace(begin, mark + remark + b"\n" + begin, 1))
    np.testing.assert_array_equal(read_volume(file).numpy(), plain.numpy())
