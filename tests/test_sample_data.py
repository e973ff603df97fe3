"""The sample data: valid DICOM, one geometry in DICOM and NIfTI, a mask that is the lesion, and made by its script."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import ArrayLike
from scipy import ndimage

from klip_monai.io import read_volume
from klip_monai.phantom import Organ, PhantomScan, render

SAMPLE_DATA = Path(__file__).parents[1] / "sample_data"
SERIES = ("healthy", "lesion")
TOLERANCE_MM = 1e-4


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample_data", SAMPLE_DATA / "make_sample_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lesion_scan(maker: ModuleType) -> PhantomScan:
    scan: PhantomScan = maker.LESION.scan()
    return scan


def nifti(name: str) -> nib.Nifti1Image:
    image = nib.load(SAMPLE_DATA / name)
    assert isinstance(image, nib.Nifti1Image)
    return image


def load(name: str) -> np.ndarray:
    return np.asarray(nifti(name).dataobj)


def committed_slices(name: str) -> list[Path]:
    """Files of a series from inferior to superior."""
    return sorted(
        (SAMPLE_DATA / name).glob("*.dcm"),
        key=lambda path: int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber),
    )


def itk_series(name: str) -> Any:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(SAMPLE_DATA / name)))
    return reader.Execute()


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) voxel indices of the corners."""
    return np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1).T


def itk_corners(image: Any) -> np.ndarray:
    """(8, 3) RAS mm."""
    at = corners(image.GetSize())
    points = [image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index]) for index in at]
    return np.array(points) * (-1, -1, 1)


def affine_corners(affine: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) RAS mm."""
    return nib.affines.apply_affine(np.asarray(affine, np.float64), corners(shape))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
@pytest.mark.parametrize("name", SERIES)
def test_dicom_validator_reports_no_error(name: str) -> None:
    files = committed_slices(name)
    assert len(files) == 28
    for path in files:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
        report = done.stdout + done.stderr
        assert "CTImage" in report
        assert "Error" not in report, report


@pytest.mark.parametrize("name", SERIES)
def test_series_is_one_study_of_its_own_patient(name: str) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in committed_slices(name)]
    assert [int(h.InstanceNumber) for h in headers] == list(range(1, 29))
    assert len({h.SOPInstanceUID for h in headers}) == 28
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({h[keyword].value for h in headers}) == 1
    assert str(headers[0].PatientName) == f"Phantom^{name.capitalize()}"
    normal = np.cross(headers[0].ImageOrientationPatient[:3], headers[0].ImageOrientationPatient[3:])
    along = [np.dot(normal, h.ImagePositionPatient) for h in headers]
    np.testing.assert_allclose(np.diff(along), 5.0, atol=1e-6)


def test_the_two_patients_share_no_identifier() -> None:
    healthy, lesion = (pydicom.dcmread(committed_slices(name)[0], stop_before_pixels=True) for name in SERIES)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "SOPInstanceUID"):
        assert healthy[keyword].value != lesion[keyword].value


@pytest.mark.parametrize("name", SERIES)
def test_order_of_the_file_names_is_not_the_order_in_space(name: str) -> None:
    files = committed_slices(name)
    assert files != sorted(files)
    assert files[::-1] != sorted(files)


@pytest.mark.parametrize("name", SERIES)
def test_dicom_lies_where_the_maker_put_the_grid(maker: ModuleType, name: str) -> None:
    case = {"healthy": maker.HEALTHY, "lesion": maker.LESION}[name]
    expected = affine_corners(case.affine, maker.SHAPE)
    np.testing.assert_allclose(itk_corners(itk_series(name)), expected, rtol=0, atol=TOLERANCE_MM)
    volume = read_volume(SAMPLE_DATA / name)
    assert tuple(volume.shape[1:]) == maker.SHAPE
    np.testing.assert_allclose(affine_corners(volume.affine, maker.SHAPE), expected, rtol=0, atol=TOLERANCE_MM)


@pytest.mark.parametrize("file", ["lesion.nii.gz", "lesion_mask.nii.gz"])
def test_nifti_lies_where_the_dicom_lies(file: str) -> None:
    dicom = itk_series("lesion")
    expected = itk_corners(dicom)
    image = nifti(file)
    assert image.shape == dicom.GetSize()
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(affine_corners(form, image.shape), expected, rtol=0, atol=TOLERANCE_MM)
    read = sitk.ReadImage(str(SAMPLE_DATA / file))
    np.testing.assert_allclose(itk_corners(read), expected, rtol=0, atol=TOLERANCE_MM)


def test_lesion_series_is_oblique_but_close_to_axial() -> None:
    direction = np.array(itk_series("lesion").GetDirection()).reshape(3, 3)
    degrees = np.degrees(np.arccos(np.diag(direction)))
    assert (degrees > 2).all()
    assert (degrees < 6).all()


def test_nifti_and_dicom_hold_the_same_hu() -> None:
    dicom = sitk.GetArrayFromImage(itk_series("lesion")).transpose(2, 1, 0)
    hu = load("lesion.nii.gz")
    assert hu.dtype == np.int16
    np.testing.assert_array_equal(dicom, hu)
    np.testing.assert_array_equal(read_volume(SAMPLE_DATA / "lesion")[0].numpy(), hu)


def test_mask_is_the_darker_part_of_the_liver(maker: ModuleType, lesion_scan: PhantomScan) -> None:
    hu, mask = load("lesion.nii.gz").astype(float), load("lesion_mask.nii.gz")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, lesion_scan.lesions)
    in_liver = np.isin(lesion_scan.organs, (Organ.LIVER, Organ.VESSEL))
    assert in_liver[mask == 1].all()
    lesion = maker.LESION.anatomy.lesions[0]
    assert -60 <= lesion.contrast <= -50
    # Pixels on an edge are a mixture of both sides (partial volume): one pixel off the edges the values are pure.
    around = np.ones((3, 3, 1), bool)
    liver = ndimage.binary_erosion(in_liver, around) & ~ndimage.binary_dilation(mask, around)
    liver &= ~ndimage.binary_dilation(lesion_scan.organs == Organ.VESSEL, around)
    core = ndimage.binary_erosion(mask, around)
    assert core.sum() > 100
    assert hu[core].mean() - hu[liver].mean() == pytest.approx(lesion.contrast, abs=2)
    halfway = hu[liver].mean() + lesion.contrast / 2
    assert (hu[mask == 1] < halfway).mean() > 0.9
    assert (hu[liver] < halfway).mean() < 0.005
    volume_mm3 = mask.sum() * abs(np.linalg.det(maker.LESION.affine[:3, :3]))
    assert 11 < (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3) < 15


@pytest.mark.parametrize("name", SERIES)
def test_maker_writes_the_committed_bytes_for_the_committed_hu(maker: ModuleType, name: str) -> None:
    case = {"healthy": maker.HEALTHY, "lesion": maker.LESION}[name]
    files = committed_slices(name)
    hu = sitk.GetArrayFromImage(itk_series(name)).transpose(2, 1, 0).astype(np.int16)
    for index in (0, 13, 27):
        assert maker.dicom_bytes(maker.dicom_slice(case, hu, index)) == files[index].read_bytes()


def test_maker_renders_the_committed_hu(maker: ModuleType, lesion_scan: PhantomScan) -> None:
    # Other processors round sines and powers differently: there, a few voxels in a million fall to the other side of
    # a half. On the processor the data were made on, there is no difference at all.
    bottom = render(maker.HEALTHY.anatomy, maker.HEALTHY.affine, shape=(176, 176, 2), noise_hu=maker.NOISE_HU)
    healthy = sitk.GetArrayFromImage(itk_series("healthy")).transpose(2, 1, 0)[:, :, :2]
    for scan, committed in ((lesion_scan, load("lesion.nii.gz")), (bottom, healthy)):
        apart = np.abs(maker.stored_hu(scan).astype(int) - committed)
        assert apart.max() <= 1
        assert apart.astype(bool).mean() < 1e-4


def test_dicom_bytes_can_be_read_back(maker: ModuleType) -> None:
    hu = load("lesion.nii.gz")
    data = pydicom.dcmread(BytesIO(maker.dicom_bytes(maker.dicom_slice(maker.LESION, hu, 13))))
    np.testing.assert_array_equal(data.pixel_array.T + float(data.RescaleIntercept), hu[:, :, 13])


def test_making_replaces_slices_of_an_earlier_run(maker: ModuleType, tmp_path: Path) -> None:
    hu = np.zeros((8, 8, 3), np.int16)
    stale = tmp_path / "healthy" / "stale.dcm"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    maker.write_series(tmp_path / "healthy", maker.HEALTHY, hu)
    assert not stale.exists()
    assert len(list((tmp_path / "healthy").iterdir())) == 3


def test_sample_data_stay_small() -> None:
    files = [path for path in SAMPLE_DATA.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 12e6
