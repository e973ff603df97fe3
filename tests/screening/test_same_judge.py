"""Whatever lies in a folder, `inspect`, `score`, `screen` and `calibrate` say the same of it."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from ct_files import sample_hu, write_enhanced, write_series
from pydicom.fileset import FileSet
from pydicom.uid import RLELossless

from klip_monai.errors import InputError
from klip_monai.io import index_series, read_volume
from klip_monai.scan.calibration import healthy_scans
from klip_monai.screening.discovery import ArchiveIndex
from klip_monai.screening.found import SeriesFilter
from klip_monai.screening.reasons import without_names

Write = Callable[[Path], object]


def words(error: InputError) -> str:
    """A refusal without what the scan and its files are called."""
    return without_names(str(error)).split("...")[0]


def said_by_score(path: Path) -> list[str]:
    """What each volume is, in short: its shape and what is said of it, or why it is refused."""
    names = [info.name for info in index_series(path).series]
    several = len(names) > 1
    said = []
    for name in names:
        try:
            volume = read_volume(path, **({"series_uid": name} if several else {}))
            said.append(f"{tuple(volume.shape[1:])} {volume.meta['repairs']}")
        except InputError as error:
            said.append(words(error))
    return sorted(said)


def said_by_inspect(path: Path) -> list[str]:
    said = []
    for info in index_series(path).series:
        if info.verdict == "refused":
            said.append(words(InputError(info.reason)))
        else:
            said.append(f"{(info.columns, info.rows, info.n_slices)} {info.reason}")
    return sorted(said)


def said_by_screen(path: Path, index_file: Path) -> list[str]:
    said = []
    with ArchiveIndex(index_file) as index:
        index.update([path])
        for found in index.series(SeriesFilter(min_slices=1)):
            try:
                assert found.files is not None, found.reason
                volume = read_volume(found.files)
                said.append(f"{tuple(volume.shape[1:])} {volume.meta['repairs']}")
            except InputError as error:
                said.append(words(error))
    return sorted(said)


def plain(folder: Path) -> None:
    write_series(folder, sample_hu())


def two_slices_under_each_instance_uid(folder: Path) -> None:
    shared = [pydicom.uid.generate_uid() for _ in range(3)]
    write_series(folder, sample_hu(6), edit=lambda k, ds: setattr(ds, "SOPInstanceUID", shared[k // 2]))


def one_instance_uid_for_all(folder: Path) -> None:
    write_series(folder, sample_hu(6), edit=lambda _, ds: setattr(ds, "SOPInstanceUID", "1.2.3"))


def same_uids_with_other_pixels(folder: Path) -> None:
    write_series(folder / "a", sample_hu())
    shutil.copytree(folder / "a", folder / "b")
    for file in (folder / "b").iterdir():
        ds = pydicom.dcmread(file)
        ds.PixelData = bytes(reversed(ds.PixelData))
        ds.save_as(file)


def a_folder_that_a_link_leads_to(folder: Path) -> None:
    write_series(folder.parent / "elsewhere", sample_hu())
    folder.mkdir()
    (folder / "scan").symlink_to(folder.parent / "elsewhere")


def a_zip_in_a_folder(folder: Path) -> None:
    write_series(folder / "in", sample_hu())
    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        for file in (folder / "in").iterdir():
            archive.write(file, f"deep/{file.name}")
    shutil.rmtree(folder / "in")


def padding_that_is_tissue(folder: Path) -> None:
    hu = sample_hu()
    hu[:, 0, 0] = 40
    write_series(folder, hu, edit=lambda _, ds: setattr(ds, "PixelPaddingValue", 1064))


def pixels_that_cannot_be_decoded(folder: Path) -> None:
    def garble(ds: pydicom.Dataset) -> None:
        ds.compress(RLELossless)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.105"

    write_series(folder, sample_hu(), finish=garble)


def values_that_are_not_hu(folder: Path) -> None:
    write_series(folder, np.clip(sample_hu(), 0, 200))


def pixels_of_400_mm(folder: Path) -> None:
    write_series(folder, sample_hu(), pixel_spacing=(400.0, 400.0))


def a_nifti_file(folder: Path) -> None:
    folder.mkdir()
    nib.save(nib.Nifti1Image(sample_hu().transpose(2, 1, 0), np.diag([-1.0, -1.0, 2.0, 1.0])), folder / "ct.nii.gz")


def slices_of_two_patients(folder: Path) -> None:
    write_series(folder, sample_hu(), edit=lambda k, ds: setattr(ds, "PatientID", f"SECRET-{k // 3}"))


@pytest.mark.parametrize(
    "write",
    [
        plain,
        two_slices_under_each_instance_uid,
        one_instance_uid_for_all,
        a_folder_that_a_link_leads_to,
        a_zip_in_a_folder,
    ],
)
def test_a_scan_is_a_scan_for_all_commands(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "in" / "scan")
    (said,) = said_by_score(tmp_path / "in" / "scan")
    assert said.startswith("(12, 16, ")
    assert said_by_inspect(tmp_path / "in" / "scan") == [said]
    assert said_by_screen(tmp_path / "in" / "scan", tmp_path / "index.sqlite") == [said]
    assert str(tuple(next(healthy_scans(tmp_path / "in")).shape[1:])) in said


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (same_uids_with_other_pixels, "2 different slices at an occupied position"),
        (padding_that_is_tissue, "stands for 40 HU"),
        (pixels_that_cannot_be_decoded, "cannot be decoded"),
        (values_that_are_not_hu, "not HU"),
        (pixels_of_400_mm, "as no body is larger"),
        (slices_of_two_patients, "several patients"),
    ],
)
def test_what_one_command_refuses_all_do(tmp_path: Path, write: Write, reason: str) -> None:
    write(tmp_path / "in" / "scan")
    (said,) = said_by_score(tmp_path / "in" / "scan")
    assert reason in said
    assert said_by_inspect(tmp_path / "in" / "scan") == [said]
    assert said_by_screen(tmp_path / "in" / "scan", tmp_path / "index.sqlite") == [said]
    with pytest.raises(InputError, match=reason):
        next(healthy_scans(tmp_path / "in"))


def test_a_volume_file_is_judged_by_all_commands(tmp_path: Path) -> None:
    """An archive's index names it by its bytes, so only the verdicts are the same."""
    a_nifti_file(tmp_path / "scan")
    (info,) = index_series(tmp_path / "scan").series
    assert (info.verdict, info.n_slices, info.orientation) == ("usable", 5, "axial")
    assert index_series(tmp_path / "scan" / "ct.nii.gz").series == [info]
    assert said_by_screen(tmp_path / "scan", tmp_path / "index.sqlite") == ["(12, 16, 5) "]
    values = np.asarray(nib.load(tmp_path / "scan" / "ct.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(values.clip(0, 255), np.eye(4)), tmp_path / "scan" / "ct.nii.gz")
    (info,) = index_series(tmp_path / "scan").series
    assert info.verdict == "refused"
    assert "not HU" in info.reason
    assert "not HU" in said_by_screen(tmp_path / "scan", tmp_path / "index.sqlite")[0]


LAST_FILES = {
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "cut to 200 bytes": lambda data: data[:200],
    "cut to 300 bytes": lambda data: data[:300],
    "cut to 400 bytes": lambda data: data[:400],
    "cut to 700 bytes": lambda data: data[:700],
    "cut within the pixels": lambda data: data[:-100],
    "packed": gzip.compress,
    "garbage": lambda data: b"\xff" * 999,
}


@pytest.mark.parametrize("place", ["in a folder", "in a zip", "in a zip in a folder", "named by a DICOMDIR"])
@pytest.mark.parametrize("kind", LAST_FILES)
def test_a_lost_end_slice_is_noticed_by_all_commands(tmp_path: Path, kind: str, place: str) -> None:
    folder = tmp_path / "in" / "scan"
    write_series(folder, sample_hu(), edit=in_a_study)
    path = folder
    if place == "named by a DICOMDIR":
        path = as_disc(folder)
        folder = path.parent
    last = last_of(folder)
    last.write_bytes(LAST_FILES[kind](last.read_bytes()))
    if "zip" in place:
        path = tmp_path / "in" / "scan.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"deep/{file.name}")
        shutil.rmtree(folder)
        path = path.parent if "folder" in place else path
    (said,) = said_by_score(path)
    assert "among its files" in said or "cut off" in said
    assert said_by_inspect(path) == [said]
    assert said_by_screen(path, tmp_path / "index.sqlite") == [said]


def test_a_file_that_a_dicomdir_names_and_that_is_gone_is_noticed_by_all_commands(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", sample_hu(), edit=in_a_study)
    directory = as_disc(tmp_path / "scan")
    last_of(directory.parent).unlink()
    (said,) = said_by_score(directory)
    assert "among its files" in said
    assert said_by_inspect(directory) == [said]
    assert "among its files" in said_by_screen(directory, tmp_path / "index.sqlite")[0]


def test_strangers_beside_a_scan_do_not_condemn_it(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    write_series(folder, sample_hu())
    (folder / "README").write_text("hello")
    (folder / "done").touch()
    (folder / "._I0").write_bytes(b"\0\5\16\7\0\2\0\0Mac OS X        " + bytes(140))
    for kind in ("1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.88.67"):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dcmread(folder / "I0").file_meta
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = kind, "1.2.3", "1.2.4"
        if "88" not in kind:
            ds.Modality = "CT"
        ds.save_as(folder / f"I{len(list(folder.iterdir()))}", enforce_file_format=True)
    for said in (said_by_score, said_by_inspect):
        assert said(folder) == ["(12, 16, 5) "]
    assert said_by_screen(folder, tmp_path / "index.sqlite") == ["(12, 16, 5) "]


def test_a_damaged_file_of_another_series_does_not_condemn_the_chosen_one(tmp_path: Path) -> None:
    """In folders of their own, and in one folder, where it says what it is of or is counted among its own."""
    sound = write_series(tmp_path / "in" / "a", sample_hu())
    write_series(tmp_path / "in" / "b", sample_hu(seed=1))
    for flat in (False, True):
        if flat:
            for name in "ab":
                for number, file in enumerate(sorted((tmp_path / "in" / name).iterdir())):
                    file.rename(tmp_path / "in" / f"I{'ab'.index(name)}{number}")
        damaged = tmp_path / "in" / ("I12" if flat else "b/I2")
        for size in (300, 0) if flat else (300,):
            damaged.write_bytes(damaged.read_bytes()[:size])
            assert read_volume(tmp_path / "in", series_uid=sound).shape == (1, 12, 16, 5)
            said = said_by_inspect(tmp_path / "in")
            assert said == said_by_score(tmp_path / "in")
            assert said == said_by_screen(tmp_path / "in", tmp_path / "index.sqlite")
            assert sum("among its files" in one for one in said) == 1


def test_alternating_reconstructions_are_two_volumes_for_all_commands(tmp_path: Path) -> None:
    def edit(k: int, ds: pydicom.Dataset) -> None:
        ds.ConvolutionKernel = ("soft", "sharp")[k % 2]

    uid = write_series(tmp_path / "scan", sample_hu(8), edit=edit)
    with pytest.raises(InputError, match=f"choose one with --series-uid: {uid}#1 .* 4 slices.*; {uid}#2"):
        read_volume(tmp_path / "scan")
    said = said_by_score(tmp_path / "scan")
    assert said == ["(12, 16, 4) "] * 2
    assert said_by_inspect(tmp_path / "scan") == said
    assert said_by_screen(tmp_path / "scan", tmp_path / "index.sqlite") == said


def test_enhanced_files_of_one_series_are_volumes_for_all_commands(tmp_path: Path) -> None:
    for number in range(3):
        write_enhanced(tmp_path / f"IM{number}", sample_hu(seed=number))
        ds = pydicom.dcmread(tmp_path / f"IM{number}")
        ds.SeriesInstanceUID = "1.2.3"
        ds.FrameOfReferenceUID = "1.2.4"
        ds.save_as(tmp_path / f"IM{number}")
    said = said_by_score(tmp_path)
    assert said == ["(12, 16, 5) "] * 3
    assert said_by_inspect(tmp_path) == said
    assert said_by_screen(tmp_path, tmp_path / "out.sqlite") == said


def test_copies_are_read_once_and_said(tmp_path: Path) -> None:
    write_series(tmp_path / "scan" / "a", sample_hu())
    shutil.copytree(tmp_path / "scan" / "a", tmp_path / "scan" / "b")
    said = said_by_score(tmp_path / "scan")
    assert said == ["(12, 16, 5) 5 repeated slice(s) of the same pixels dropped"]
    assert said_by_screen(tmp_path / "scan", tmp_path / "index.sqlite") == said


@pytest.mark.parametrize(
    ("tag", "count", "remark"),
    [
        ("NumberOfSeriesRelatedInstances", 7, "got 5 files of the series where they say 7"),
        ("ImagesInAcquisition", 6, "got 5 slices where they say 6"),
        ("ImagesInAcquisition", 5, ""),
    ],
)
def test_counts_in_the_headers_that_do_not_hold_are_said(tmp_path: Path, tag: str, count: int, remark: str) -> None:
    write_series(tmp_path / "scan", sample_hu(), edit=lambda _, ds: setattr(ds, tag, count))
    (said,) = said_by_score(tmp_path / "scan")
    assert remark in said
    assert said_by_screen(tmp_path / "scan", tmp_path / "index.sqlite") == [said]


def in_a_study(k: int, ds: pydicom.Dataset) -> None:
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "20200101", "1200", "1", 1, k


def as_disc(folder: Path) -> Path:
    """The DICOMDIR of a copy of a folder."""
    files = FileSet()
    for file in folder.iterdir():
        files.add(file)
    files.write(folder.parent / "disc")
    return folder.parent / "disc" / "DICOMDIR"


def last_of(folder: Path) -> Path:
    """The file of the last slice, which no gap betrays."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "DICOMDIR"]
    return max(files, key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
