"""DICOM that lacks what most files have, and packings that are not opened."""

from __future__ import annotations

import gzip
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_files import refusal, sample_hu, write_enhanced, write_series
from pydicom.filewriter import dcmwrite

from klip_monai.io import index_series, read_volume

HU = sample_hu()


def without_preamble(file: Path, *, implicit: bool, little: bool) -> None:
    ds = pydicom.dcmread(file)
    if not little:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    del ds.file_meta
    ds.preamble = None
    dcmwrite(buffer := BytesIO(), ds, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    file.write_bytes(buffer.getvalue())


def without_transfer_syntax(file: Path) -> None:
    ds = pydicom.dcmread(file)
    del ds.file_meta.TransferSyntaxUID
    dcmwrite(buffer := BytesIO(), ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    file.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_files_without_preamble_are_read(tmp_path: Path, implicit: bool, little: bool) -> None:
    write_series(tmp_path, HU)
    for file in tmp_path.iterdir():
        without_preamble(file, implicit=implicit, little=little)
    np.testing.assert_array_equal(read_volume(tmp_path)[0].numpy().transpose(2, 1, 0), HU)
    assert "got 1 slice(s)" in refusal(next(tmp_path.iterdir()))


def test_files_without_a_transfer_syntax_are_read(tmp_path: Path) -> None:
    write_series(tmp_path, HU)
    for file in tmp_path.iterdir():
        without_transfer_syntax(file)
    np.testing.assert_array_equal(read_volume(tmp_path)[0].numpy().transpose(2, 1, 0), HU)


@pytest.mark.parametrize("size", [60, 200, 400])
def test_a_cut_off_file_without_preamble_refuses_its_series(tmp_path: Path, size: int) -> None:
    write_series(tmp_path, HU)
    for file in tmp_path.iterdir():
        without_preamble(file, implicit=True, little=True)
    last = max(tmp_path.iterdir(), key=lambda file: pydicom.dcmread(file, force=True).ImagePositionPatient[2])
    last.write_bytes(last.read_bytes()[:size])
    assert "not DICOM among its files" in refusal(tmp_path)


def packed(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return target


def encrypted(archive: Path) -> Path:
    """Its members flagged so, in their own headers and in the table of contents."""
    data = bytearray(archive.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 1)
    archive.write_bytes(data)
    return archive


def test_packings_that_are_not_opened_are_named_with_the_way_out(tmp_path: Path) -> None:
    write_series(tmp_path / "in", HU)
    plain = packed(tmp_path / "in", tmp_path / "a.zip")
    (tmp_path / "nest").mkdir()
    plain.rename(tmp_path / "nest" / "a.zip")
    nested = packed(tmp_path / "nest", tmp_path / "nested.zip")
    assert "1 x archive in an archive" in refusal(nested)
    assert "unpack the outer one" in refusal(nested)
    assert index_series(nested).passed_over == {"archive in an archive": 1}
    assert read_volume(tmp_path / "nest").shape == (1, 12, 16, 5)
    closed = encrypted(packed(tmp_path / "in", tmp_path / "closed.zip"))
    assert "5 x encrypted file" in refusal(closed)
    assert "password" in refusal(closed)
    for file in list((tmp_path / "in").iterdir()):
        file.with_suffix(".dcm.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert "5 x file packed by gzip" in refusal(tmp_path / "in")
    assert "gunzip" in refusal(tmp_path / "in")


def test_frames_without_a_place_refuse_an_enhanced_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "a", HU)
    ds = pydicom.dcmread(tmp_path / "a")
    del ds.PerFrameFunctionalGroupsSequence[-1]
    ds.save_as(tmp_path / "a")
    assert "damaged" in refusal(tmp_path / "a")
