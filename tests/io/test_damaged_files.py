"""What damaged files once did to the readers: crash them, hang them, fill memory, or leave without a reason."""

from __future__ import annotations

import errno
import gzip
import io
import json
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
import scipy.io
import SimpleITK as sitk  # noqa: N813
from ct_files import refusal, sample_hu, write_series
from fuzz_corpus import specimens, tarred, zipped
from fuzz_reading import fuzz
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from klip_monai.errors import InputError
from klip_monai.io import index_series, read_volume
from klip_monai.io.claims import check_claim
from klip_monai.io.dicom import files as dicom_files
from klip_monai.io.dicom import series as dicom
from klip_monai.io.files.sinogram import read_sinogram

SINOGRAM = np.random.default_rng(0).random((5, 8)).astype(np.float32)


def test_mutated_files_are_read_or_refused_with_a_reason() -> None:
    tally = None
    for tally in fuzz(specimens(), range(300), seed=1, seconds=5.5):  # noqa: B007 (the last one counts)
        pass
    assert tally is not None
    assert tally.total > 20
    assert tally.findings == []


def test_messages_are_one_line_whatever_they_quote() -> None:
    assert str(InputError("got\n'a\x1b[31m\0b',\u2028expected c; d")) == "got 'a [31m b', expected c; d"


def write_raw(folder: Path, keyword: str, vr: str, value: bytes) -> None:
    """Write a series whose slices have an element of these bytes."""
    write_series(folder, sample_hu())
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        ds[keyword] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
        ds.save_as(file)


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "reason"),
    [
        pytest.param("RescaleSlope", "FD", b"1.0 ", "x damaged", id="length-of-no-number"),
        pytest.param("ImagePositionPatient", "DC", b"\0" * 8, "x damaged", id="unknown-vr"),
        pytest.param("PixelPaddingValue", "US", b"\0\0\1\0", "x damaged", id="two-paddings"),
        pytest.param("SamplesPerPixel", "IS", b"1\\1 ", "x damaged", id="two-samples"),
        pytest.param("Rows", "DS", b"16.0", "x damaged", id="rows-no-integer"),
        pytest.param("Rows", "US", b"\xff\xff", "expected at most 8192", id="huge-rows"),
        pytest.param("Modality", "LT", b"CT" + b"x" * 9000, "expected a CT series", id="long-modality"),
        pytest.param("RescaleType", "LT", b"US" * 5000, "RescaleType", id="long-unit"),
    ],
)
def test_dicom_tags_of_no_sense_are_refused(tmp_path: Path, keyword: str, vr: str, value: bytes, reason: str) -> None:
    write_raw(tmp_path, keyword, vr, value)
    message = refusal(tmp_path)
    assert reason in message
    assert len(message) < 1000
    index_series(tmp_path)


def test_unreadable_tag_that_no_volume_needs_is_left_out(tmp_path: Path) -> None:
    write_raw(tmp_path, "AcquisitionNumber", "FD", b"12")
    assert read_volume(tmp_path).shape == (1, 12, 16, 5)


def test_unknown_transfer_syntax_is_refused_by_its_number(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu())
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))
    assert "cannot be decoded (1.2.840.10008.1.2.9)" in refusal(tmp_path)


def test_scan_beyond_memory_is_refused_with_its_size(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu())
    shape = (5, 16, 12)
    empty = np.empty

    def full(wanted: object, **options: object) -> np.ndarray:
        if wanted == shape:
            raise MemoryError
        return empty(wanted, **options)

    with mock.patch.object(dicom.np, "empty", full):
        assert "5 x 16 x 12 voxels" in refusal(tmp_path)


def test_jpeg_never_meets_the_decoder_that_ends_the_process(tmp_path: Path) -> None:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg (DCMTK) is not installed")
    write_series(tmp_path, sample_hu())
    for file in tmp_path.iterdir():
        subprocess.run(["dcmcjpeg", "+e1", str(file), str(file)], check=True)
    with mock.patch("pydicom.pixels.decoders.gdcm.gdcm") as gdcm:
        assert read_volume(tmp_path).shape == (1, 12, 16, 5)
    assert gdcm.mock_calls == []


def test_archives_that_python_cannot_open_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", sample_hu())
    files = {file.name: file.read_bytes() for file in (tmp_path / "in").iterdir()}
    directory = (packed := bytearray(zipped(files))).index(b"PK\1\2")
    packed[directory + 6] = 255  # version needed to extract
    (tmp_path / "a.zip").write_bytes(packed)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tarred(files))[:200])
    for name in ("a.zip", "a.tar.gz"):
        assert "damaged or cut-off archive" in refusal(tmp_path / name)
        with pytest.raises(InputError, match="damaged or cut-off archive"):
            index_series(tmp_path / name)


def test_dicomdir_may_name_what_no_file_system_would(tmp_path: Path) -> None:
    disc = next(specimen for specimen in specimens() if specimen.name == "dicomdir")
    directory = pydicom.dcmread(io.BytesIO(disc.files["DICOMDIR"]))
    for number, record in enumerate(directory.DirectoryRecordSequence):
        odd = pydicom.DataElement("ReferencedFileID", "FD", 1.5)
        record["ReferencedFileID"] = odd if number % 2 else pydicom.DataElement("ReferencedFileID", "LT", "x" * 300)
    directory.save_as(tmp_path / "DICOMDIR")
    assert index_series(tmp_path / "DICOMDIR").series == []


def nifti(path: Path, **fields: object) -> Path:
    """A NIfTI file whose header has these fields changed afterwards."""
    image = nib.Nifti1Image(sample_hu(6, 5, 4).transpose(2, 1, 0), None)
    image.set_sform(np.eye(4), code=1)
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, nib.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_nifti_that_claims_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    dim = [3, 30000, 30000, 30000, 1, 1, 1, 1]
    for name in ("a.nii", "a.nii.gz"):
        assert "claims 54000000000000 bytes" in refusal(nifti(tmp_path / name, dim=dim))


def test_nifti_of_unknown_units_or_infinite_numbers_is_refused(tmp_path: Path) -> None:
    assert "lengths in 'unit 7'" in refusal(nifti(tmp_path / "a.nii", xyzt_units=7))
    assert "expected finite sizes" in refusal(nifti(tmp_path / "a.nii", srow_x=[np.inf, 0, 0, 0]))
    assert "infinite voxels" in refusal(nifti(tmp_path / "a.nii", scl_slope=1e38))


@pytest.mark.parametrize(
    ("suffix", "old", "new", "reason"),
    [
        (".nrrd", rb"dimension: 3", b"dimension: " + b"x" * 70_000, "characters"),
        (".nrrd", b"dimension: 3", b"dimension: 99999", "axes"),
        (".nrrd", b"sizes: 4 5 6", b"sizes: 4 5 60000", "claims"),
        (".nrrd", b"sizes: 4 5 6", b"sizes: 4 -5 6", "axes"),
        (".nrrd", b"type: short", b"type: block", "known type"),
        (".nrrd", b"kinds:", b"space \xff\xff\xff" * 500, "no text"),
        (".nrrd", b"(0.5,0,0)", b"(nan,0,0)", "'nan' in the place"),
        (".nhdr", b"data file: a.raw", b"data file: " + b"y" * 300, "cannot read"),
        (".nhdr", b"data file: a.raw", b"data file: /dev/zero", "expected a file"),
        (".mha", b"NDims = 3", b"NDims = 2147483647", "axes"),
        (".mha", b"DimSize = 4 5 6", b"DimSize = 4 5 4294967295", "claims"),
        (".mha", b"1 0 0 0 1 0 0 0 1", b"1 0 0 -1e308 1 0 0 0 1", "'-1e308' in the place"),
        (".mha", b"ElementDataFile = LOCAL\n", b"ElementDataFile =\x16\xfe", "no text"),
    ],
)
def test_headers_that_crash_or_hang_itk_are_refused(
    tmp_path: Path, suffix: str, old: bytes, new: bytes, reason: str
) -> None:
    image = sitk.GetImageFromArray(sample_hu(6, 5, 4))
    image.SetSpacing([0.5, 0.5, 2.5])
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, path, useCompression=False)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    assert reason in refusal(path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"angles": {"start": 0, "step": 1}, "views": 10**12}, "got shape"),
        ({"angles": {"start": 0, "step": 1}, "views": [5]}, "views: got"),
        ({"detectors": None}, "detectors: got"),
        ({"pitch_mm": 10**400}, "pitch_mm: got"),
        ({"kind": ["fan"]}, "kind: got"),
        ({"dataset": ["sinogram"]}, "dataset: got"),
        ({"mu_window": ["a" * 9000, 1]}, "expected a finite number"),
    ],
)
def test_geometries_of_no_sense_are_refused(tmp_path: Path, fields: dict, reason: str) -> None:
    np.save(tmp_path / "a.npy", SINOGRAM)
    geometry = {"angles": [0, 1, 2, 3, 4], "pitch_mm": 1.5} | fields
    (tmp_path / "geometry.json").write_text(json.dumps(geometry))
    with pytest.raises(InputError, match=reason) as caught:
        read_sinogram(tmp_path / "a.npy", tmp_path / "geometry.json")
    assert len(str(caught.value)) < 500


def test_geometry_nested_without_end_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SINOGRAM)
    (tmp_path / "geometry.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_sinogram(tmp_path / "a.npy", tmp_path / "geometry.json")


def test_numpy_archive_may_hold_what_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", sinogram=SINOGRAM)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("note.npy", b"hello")
    parts = read_sinogram(tmp_path / "a.npz", {"angles": [0, 1, 2, 3, 4], "pitch_mm": 1.5})
    np.testing.assert_array_equal(parts.line_integrals, SINOGRAM)


def test_dataset_that_was_never_written_takes_no_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("sinogram", (10**6, 10**6), "f4", chunks=(1000, 1000))
    with pytest.raises(InputError, match="claims 4000000000000 bytes"):
        read_sinogram(tmp_path / "a.h5")


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_file_of_unknown_types_is_refused(tmp_path: Path, compressed: bool) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"scan": {"sinogram": SINOGRAM}}, do_compression=compressed)
    read_sinogram(tmp_path / "a.mat", {"angles": [0, 1, 2, 3, 4], "pitch_mm": 1.5})
    scipy.io.savemat(tmp_path / "plain.mat", {"scan": {"sinogram": SINOGRAM}})
    content = bytearray((tmp_path / "plain.mat").read_bytes())
    at = content.index(struct.pack("<II", 7, SINOGRAM.nbytes))  # single-precision numbers
    content[at : at + 4] = struct.pack("<I", 0xFE10)
    (tmp_path / "a.mat").write_bytes(zlib_packed(content) if compressed else content)
    with pytest.raises(InputError, match="type 65040"):
        read_sinogram(tmp_path / "a.mat")


def zlib_packed(content: bytes) -> bytes:
    """A MATLAB 5 file with its one variable compressed."""
    packed = zlib.compress(content[128:])
    return content[:128] + struct.pack("<II", 15, len(packed)) + packed


def test_matlab_matrix_without_sizes_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"sinogram": SINOGRAM})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    at = content.index(struct.pack("<IIII", 5, 8, *SINOGRAM.shape))
    content[at] = 9  # double-precision numbers
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(InputError, match="matrix without sizes"):
        read_sinogram(tmp_path / "a.mat")


def test_zip_member_without_a_name_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"": b"hello"}))
    assert index_series(tmp_path / "a.zip").passed_over == {"not DICOM": 1}


def test_packed_claims_are_refused_only_where_they_fill_memory() -> None:
    check_claim(2**29, 10, "a", packed=True)
    check_claim(10, 10, "a", packed=False)
    for claimed, packed in ((2**31, True), (11, False)):
        with pytest.raises(InputError, match=f"claims {claimed} bytes"):
            check_claim(claimed, 10, "a", packed=packed)


def test_a_disk_that_fails_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, sample_hu())
    opened = dicom_files.DicomFiles.open

    def stale(self: dicom_files.DicomFiles, file: dicom_files.DicomFile, **limit: int) -> object:
        if bool(limit) == headers:
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(self, file, **limit)

    monkeypatch.setattr(dicom_files.DicomFiles, "open", stale)
    for headers in (False, True):
        message = refusal(tmp_path)
        assert "unreadable file" in message if headers else "no access (Stale file handle)" in message
        assert "damaged" not in message
