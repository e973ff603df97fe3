"""What `klip-monai inspect` lists: folders, DICOMDIRs and archives, in any state."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_files import refusal, sample_hu, write_enhanced, write_series
from pydicom.fileset import FileSet
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.cli.options import out
from klip_monai.errors import InputError
from klip_monai.io import index_series, list_series, read_volume


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A CT with a kernel and contrast, a sagittal MR, a localizer, an enhanced CT and a note."""

    def ct(_: int, ds: pydicom.Dataset) -> None:
        ds.ConvolutionKernel, ds.ContrastBolusAgent = "B30f", "Iomeron"

    def mr(_: int, ds: pydicom.Dataset) -> None:
        ds.Modality, ds.SOPClassUID, ds.SeriesDescription = "MR", "1.2.840.10008.5.1.4.1.1.4", "t2"

    def scout(_: int, ds: pydicom.Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    root = tmp_path / "Secret Name"
    write_series(root / "deep" / "ct", sample_hu(), edit=ct)
    write_series(root / "mr", sample_hu(), edit=mr, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    write_series(root / "scout", sample_hu(1), edit=scout)
    write_enhanced(root / "enhanced", sample_hu(6))
    (root / "note.txt").write_text("hello")
    return root


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder))
    return target


def tarred(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as archive:
        archive.add(folder, arcname="../../evil")
    return target


def test_every_series_has_its_geometry_and_a_verdict(study: Path) -> None:
    index = index_series(study)
    (ct,) = (info for info in index.series if info.kernel)
    assert (ct.modality, ct.description, ct.contrast) == ("CT", "portal venous", "Iomeron")
    assert (ct.orientation, ct.spacing_mm, ct.n_files, ct.n_slices) == ("axial", (0.7, 0.8, 2.0), 5, 5)
    assert (ct.verdict, ct.reason, ct.folder) == ("usable", "", study / "deep" / "ct")
    (mr,) = (info for info in index.series if info.modality == "MR")
    assert (mr.orientation, mr.verdict, mr.reason) == (
        "sagittal",
        "refused",
        "got modality MR, expected CT; only CT has HU",
    )
    (enhanced,) = (info for info in index.series if info.n_files == 1)
    assert (enhanced.n_slices, enhanced.spacing_mm, enhanced.verdict) == (6, (0.7, 0.8, 2.0), "usable")
    assert index.passed_over == {"localizer": 1, "not DICOM": 1}
    for info in index.series:
        if info.verdict == "usable":
            assert read_volume(study, series_uid=info.name).shape[-1] == info.n_slices


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_archive_is_read_like_its_folder_and_nothing_is_unpacked(study: Path, tmp_path: Path, kind: str) -> None:
    archive = (zipped if kind == "a.zip" else tarred)(study, tmp_path / kind)
    before = sorted(path for path in tmp_path.parent.rglob("*"))
    assert index_series(archive).describe() == index_series(study).describe()
    for info in list_series(study):
        if info.verdict == "usable":
            packed, plain = (read_volume(path, series_uid=info.name) for path in (archive, study))
            np.testing.assert_array_equal(packed.numpy(), plain.numpy())
            np.testing.assert_array_equal(packed.affine, plain.affine)
            assert packed.meta["name"] == "a"
    assert sorted(path for path in tmp_path.parent.rglob("*")) == before


def test_dicomdir_names_files_below_it_only(tmp_path: Path) -> None:
    write_series(tmp_path / "in", sample_hu())
    files = FileSet()
    for file in (tmp_path / "in").iterdir():
        ds = pydicom.dcmread(file)
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "20200101", "1200", "1", 1, 1
        files.add(ds)
    files.write(tmp_path / "disc")
    (info,) = list_series(tmp_path / "disc" / "DICOMDIR")
    assert (info.n_files, info.verdict) == (5, "usable")
    assert read_volume(tmp_path / "disc" / "DICOMDIR").shape == (1, 12, 16, 5)
    directory = pydicom.dcmread(tmp_path / "disc" / "DICOMDIR")
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "in", "I0"]
    directory.save_as(tmp_path / "disc" / "DICOMDIR")
    assert list_series(tmp_path / "disc" / "DICOMDIR") == []


def test_bombs_are_refused_and_do_not_fill_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        header = bytes(128) + b"DICM"
        for name in ("a", "b", "c"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(header)
                for _ in range(400):
                    member.write(bytes(2**20))
    with pytest.raises(InputError, match="times its size"):
        index_series(tmp_path / "bomb.zip")
    with zipfile.ZipFile(tmp_path / "long.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("long", header + b"\x08\x00\x05\x00UT\0\0\xf0\xff\xff\xff" + bytes(70 * 2**20))
    index = index_series(tmp_path / "long.zip")
    assert (index.series, index.damaged) == ([], 1)


def test_links_and_encrypted_or_damaged_members_are_never_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "in", sample_hu())
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
            link = tarfile.TarInfo(f"link{number}")
            link.type, link.linkname = kind, str(tmp_path / "in" / "I0")
            archive.addfile(link)
    assert list_series(tmp_path / "links.tar") == []
    whole = zipped(tmp_path / "in", tmp_path / "a.zip").read_bytes()
    (tmp_path / "flipped.zip").write_bytes(whole[:300] + bytes(200) + whole[500:])
    index = index_series(tmp_path / "flipped.zip")
    assert index.damaged + sum(index.passed_over.values()) >= 1
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "in")
    (tmp_path / "cut.tar.gz").write_bytes(buffer.getvalue()[:2000])
    assert "damaged" in refusal(tmp_path / "cut.tar.gz")


def test_command_prints_a_table_and_json_without_names(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 250)
    broken = pydicom.dcmread(study / "deep" / "ct" / "I0")
    broken.PixelSpacing = [0.8, 0.9]
    broken.save_as(study / "deep" / "ct" / "I0")
    result = CliRunner().invoke(app, ["inspect", str(study), "--json", str(tmp_path / "i.json")])
    assert result.exit_code == 0, result.output
    assert "mixed PixelSpacing" in result.output
    assert "passed over: 1 x localizer, 1 x not DICOM" in result.output
    text = (tmp_path / "i.json").read_text()
    for secret in ("Secret", "SECRET", str(tmp_path), *(info.series_uid for info in list_series(study))):
        assert secret not in result.output + text
    assert {entry["verdict"] for entry in json.loads(text)["series"]} == {"usable", "refused"}


def test_reasons_name_no_files(tmp_path: Path) -> None:
    write_series(tmp_path, sample_hu())
    ds = pydicom.dcmread(tmp_path / "I2")
    del ds.ImagePositionPatient
    ds.save_as(tmp_path / "Doe^Jane")
    (tmp_path / "I2").unlink()
    (info,) = list_series(tmp_path)
    assert info.reason.startswith("got no usable ImagePositionPatient in 'file or frame")
    assert "Doe" not in json.dumps(info.describe())


def test_places_without_series_give_an_empty_index_or_a_reason(tmp_path: Path) -> None:
    assert index_series(tmp_path).series == []
    with pytest.raises(InputError, match="existing folder"):
        index_series(tmp_path / "nowhere")


def test_a_narrow_terminal_cuts_no_name_and_gives_a_reason_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 60)
    write_series(tmp_path / "whole", sample_hu(9))
    write_series(tmp_path / "gap", sample_hu(9))
    sorted((tmp_path / "gap").iterdir())[4].unlink()
    lines = CliRunner().invoke(app, ["inspect", str(tmp_path)]).output.splitlines()
    whole, gap = (next(info for info in index_series(tmp_path).series if bool(info.reason) == bad) for bad in (0, 1))
    assert [line.split()[0] for line in lines if whole.name in line] == [whole.name]
    assert f"{gap.name}: {gap.verdict}: {gap.reason}" in lines
    assert "kernel" not in lines[0]  # which no series states
