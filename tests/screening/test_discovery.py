"""What the index of an archive finds, whatever the archive is made of."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import stat
import tarfile
import zipfile
from contextlib import closing
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from ct_files import sample_hu, write_enhanced, write_series
from pydicom.fileset import FileSet

from klip_monai.errors import InputError
from klip_monai.io import read_volume
from klip_monai.screening import discovery, headers, index_benchmark
from klip_monai.screening.discovery import ArchiveIndex
from klip_monai.screening.found import FoundSeries, SeriesFilter

EVERYTHING = SeriesFilter(min_slices=1)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "Secret^Name"
    folder.mkdir()
    return folder


@pytest.fixture
def index(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with ArchiveIndex(tmp_path / "out" / "index.sqlite") as made:
        yield made


def found(index: ArchiveIndex, *sources: Path, filters: SeriesFilter = EVERYTHING) -> list[FoundSeries]:
    index.update(sources)
    return list(index.series(filters))


def refuse_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(discovery, "read_members", fail)
    monkeypatch.setattr(headers, "read_chunk", fail)


def packed(folder: Path, target: Path) -> Path:
    """The folder as zip or tar, its members named to lead out of where they might be unpacked."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"../../evil/{file.name}")
    else:
        with tarfile.open(target, "w:gz" if target.suffix == ".tgz" else "w") as archive:
            archive.add(folder, "../../evil")
    return target


def test_a_series_spread_over_folders_is_one_and_copies_count_once(archive: Path, index: ArchiveIndex) -> None:
    hu = sample_hu(6)
    write_series(archive / "a", hu)
    (archive / "b").mkdir()
    for name in ("I0", "I3"):
        (archive / "a" / name).rename(archive / "b" / name)
    shutil.copytree(archive / "a", archive / "copy" / "a")
    shutil.copytree(archive / "b", archive / "copy" / "b")
    (series,) = found(index, archive)
    assert (series.n_files, series.n_slices, series.copies, series.modality) == (6, 6, 6, "CT")
    assert (series.description, series.rows, series.columns) == ("portal venous", 16, 12)
    assert index.counts().duplicates == 6
    volume = read_volume(pickle.loads(pickle.dumps(series)).files)
    np.testing.assert_array_equal(volume[0].numpy().transpose(2, 1, 0), hu)
    assert volume.meta["name"] == volume.meta["filename_or_obj"] == series.name


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_archives_stay_packed_and_read_like_their_folder(archive: Path, index: ArchiveIndex, kind: str) -> None:
    hu = sample_hu()
    write_series(archive / "in", hu)
    packed(archive / "in", archive / kind)
    shutil.rmtree(archive / "in")
    before = sorted(archive.parent.parent.rglob("*"))
    (series,) = found(index, archive)
    np.testing.assert_array_equal(read_volume(series.files)[0].numpy().transpose(2, 1, 0), hu)
    assert sorted(archive.parent.parent.rglob("*")) == before
    assert found(index, archive / kind) == [series]
    assert found(index, archive / kind) == [series]


def test_what_is_known_is_not_read_again(archive: Path, index: ArchiveIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(archive / "a", sample_hu())
    write_series(archive / "b", sample_hu(4))
    packed(archive / "b", archive / "b.zip")
    (archive / "note").write_text("hello")
    before, counts = found(index, archive), index.counts()
    refuse_to_read(monkeypatch)
    assert found(index, archive) == before
    assert index.counts() == counts


def test_an_interrupted_update_goes_on_where_it_stopped(
    archive: Path, index: ArchiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(archive / "a", sample_hu(8))
    write_series(archive / "b", sample_hu(8))
    monkeypatch.setattr(discovery, "_COMMIT_EVERY", 4)
    monkeypatch.setattr(headers, "_CHUNK", 4)

    def stop(n_files: int, _: int) -> None:
        if n_files == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update([archive], progress=stop)
    read = []
    monkeypatch.setattr(headers, "_read", lambda task, real=headers._read: (read.append(task.path), real(task))[1])
    assert [series.n_files for series in found(index, archive)] == [8, 8]
    assert sorted(read) == sorted(str(path) for path in (archive / "b").iterdir())


def test_changes_on_disk_are_noticed(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a", sample_hu(5))
    write_series(archive / "b", sample_hu(4))
    packed(archive / "b", archive / "b.zip")
    assert sorted(series.copies for series in found(index, archive)) == [0, 4]
    (archive / "a" / "I1").unlink()
    shutil.rmtree(archive / "b")
    assert sorted((series.n_files, series.copies) for series in found(index, archive)) == [(4, 0), (4, 0)]
    (archive / "b.zip").write_bytes(b"PK\3\4")
    assert [series.n_files for series in found(index, archive)] == [4]
    (archive / "a" / "I2").write_bytes(b"gone")
    assert [series.n_files for series in found(index, archive)] == [3]
    shutil.rmtree(archive / "a")
    assert found(index, archive) == []
    assert index.counts().files == 1


def test_damage_never_stops_it_and_is_counted(
    archive: Path, index: ArchiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(archive / "good", sample_hu())
    (archive / "broken").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x00" + b"\xff" * 400)
    (archive / "cut").write_bytes((archive / "good" / "I1").read_bytes()[:400])
    packed(archive / "good", archive / "a.tgz")
    (archive / "cut.tgz").write_bytes((archive / "a.tgz").read_bytes()[:900])
    packed(archive / "good", archive / "a.zip")
    (archive / "cut.zip").write_bytes((archive / "a.zip").read_bytes()[:-30])
    with zipfile.ZipFile(archive / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a", bytes(2**20))
        bomb.filelist[0].file_size = 2**40
    os.mkfifo(archive / "pipe")
    (archive / "nowhere").symlink_to(archive / "missing")
    (archive / "locked").mkdir()
    scandir = os.scandir

    def locked(path: str):
        if str(path).endswith("locked"):
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    (series,) = found(index, archive)
    assert (series.n_files, series.copies) == (5, 10)
    damaged = index.counts().damaged
    assert damaged["unreadable folder"] == 1
    assert damaged["damaged"] == 2
    assert damaged["damaged or oversized archive"] >= 2  # a zip without its table may be no archive at all
    assert read_volume(series.files).shape == (1, 12, 16, 5)


def test_loops_of_links_end_and_folders_elsewhere_are_followed_once(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a" / "deep", sample_hu())
    write_series(archive.parent / "elsewhere", sample_hu(4))
    (archive / "a" / "loop").symlink_to(archive)
    (archive / "a" / "up").symlink_to(archive.parent)
    (archive / "twin").symlink_to(archive / "a")
    (archive / "one").symlink_to(archive.parent / "elsewhere")
    (archive / "two").symlink_to(archive.parent / "elsewhere")
    assert sorted((series.n_files, series.copies) for series in found(index, archive)) == [(4, 0), (5, 0)]


def test_lists_and_dicomdirs_name_what_is_looked_at(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a", sample_hu(5))
    write_series(archive / "b", sample_hu(4))
    write_enhanced(archive / "c.dcm", sample_hu(3))
    packed(archive / "b", archive / "b.zip")
    (archive / "some.txt").write_text("# mine\na\n\nb.zip\nc.dcm\nmissing\n")
    assert sorted(series.n_slices for series in found(index, archive / "some.txt")) == [3, 4, 5]
    assert index.counts().damaged == {"listed, and not there": 1}
    files = FileSet()
    for file in (archive / "b").iterdir():
        ds = pydicom.dcmread(file)
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "20200101", "1200", "1", 1, 1
        files.add(ds)
    files.write(archive / "disc")
    assert [series.n_files for series in found(index, archive / "disc" / "DICOMDIR")] == [4]
    with pytest.raises(InputError, match="does not exist"):
        index.update([archive / "nothing"])


def test_volumes_of_one_series_are_found_one_by_one(archive: Path, index: ArchiveIndex) -> None:
    arterial, venous = sample_hu(5, seed=1), sample_hu(4, seed=2)

    def at(kvp: int):
        return lambda _, ds: setattr(ds, "KVP", kvp)

    uid = write_series(archive / "a", arterial, edit=at(80))
    write_series(archive / "b", venous, series_uid=uid, edit=at(120))
    first, second = found(index, archive)
    assert (first.name + second.name, first.key, second.key) == (
        f"{first.name}{first.name[:-2]}.2",
        f"{uid}#1",
        f"{uid}#2",
    )
    for series, hu in ((first, arterial), (second, venous)):
        np.testing.assert_array_equal(read_volume(series.files)[0].numpy().transpose(2, 1, 0), hu)
    assert found(index, archive) == [first, second]
    shutil.rmtree(archive / "b")
    (alone,) = found(index, archive)
    assert (alone.key, alone.n_files, len(alone.files.files)) == (uid, 5, 5)


def test_the_same_images_under_another_series_are_a_duplicate(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a", sample_hu())
    shutil.copytree(archive / "a", archive / "b")
    for file in (archive / "b").iterdir():
        ds = pydicom.dcmread(file)
        ds.SeriesInstanceUID = "1.2.3"
        ds.save_as(file)
    original, copy = sorted(found(index, archive), key=lambda series: series.duplicate_of)
    assert copy.reason == f"the same images as {original.name}"
    assert (original.reason, copy.files, index.counts().duplicate_series) == ("", None, 1)


def test_series_of_the_same_instances_and_other_pixels_are_both_kept(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a", sample_hu())
    shutil.copytree(archive / "a", archive / "b")
    for file in (archive / "b").iterdir():
        ds = pydicom.dcmread(file)
        ds.SeriesInstanceUID, ds.PixelData = "1.2.3", bytes(reversed(ds.PixelData))
        ds.save_as(file)
    listed = found(index, archive)
    assert [series.reason for series in listed] == ["", ""]
    assert found(index, archive) == listed


def test_folders_that_were_swapped_after_they_were_listed_are_refused(archive: Path, index: ArchiveIndex) -> None:
    for name in "ab":
        write_series(archive / name, sample_hu())
    first, _ = found(index, archive)
    for old, new in ("ac", "ba", "cb"):
        (archive / old).rename(archive / new)
    with pytest.raises(InputError, match="another series than when they were listed"):
        read_volume(first.files)


def test_series_without_uid_are_told_apart_by_folder(archive: Path, index: ArchiveIndex) -> None:
    for name in "ab":
        write_series(archive / name, sample_hu(), edit=lambda _, ds: ds.__delattr__("SeriesInstanceUID"))
    assert [series.n_files for series in found(index, archive)] == [5, 5]


def test_volume_files_are_series_and_copies_count_once(archive: Path, index: ArchiveIndex) -> None:
    hu = np.full((64, 64, 64), -1000, np.int16)
    hu[32, 32, 32] = 0
    nib.save(nib.Nifti1Image(hu, np.eye(4)), archive / "a.nii")
    shutil.copy(archive / "a.nii", archive / "copy.nii")
    hu[32, 32, 32] = 1
    nib.save(nib.Nifti1Image(hu, np.eye(4)), archive / "other.nii")
    listed = found(index, archive, filters=SeriesFilter())
    assert sorted((series.copies, series.n_slices, series.modality) for series in listed) == [(0, 64, ""), (1, 64, "")]
    assert {series.files for series in listed} == {archive / "a.nii", archive / "other.nii"}
    assert read_volume(listed[0].files).shape == (1, 64, 64, 64)


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (SeriesFilter(), ""),
        (SeriesFilter(modality="MR"), "modality CT, expected MR"),
        (SeriesFilter(body_part="abdomen", description="VENOUS$", since=date(2020, 1, 2), min_slices=5), ""),
        (SeriesFilter(body_part="HEAD"), "body part ABDOMEN, expected HEAD"),
        (SeriesFilter(min_slices=6), "5 slice(s), expected at least 6"),
        (SeriesFilter(description="arterial"), "series description does not match"),
        (SeriesFilter(since=date(2020, 1, 3)), "older than 2020-01-03"),
    ],
)
def test_filters_say_why_a_series_is_not_wanted(
    archive: Path, index: ArchiveIndex, filters: SeriesFilter, reason: str
) -> None:
    def edit(_: int, ds: pydicom.Dataset) -> None:
        ds.BodyPartExamined, ds.StudyDate = "ABDOMEN", "20200102"

    write_series(archive, sample_hu(), edit=edit)
    (series,) = found(index, archive, filters=filters)
    assert (series.reason, series.files is None) == (reason, bool(reason))


def test_filters_need_a_regular_expression() -> None:
    with pytest.raises(InputError, match="regular expression"):
        SeriesFilter(description="(")


def test_names_are_unique_even_where_hashes_begin_alike(
    archive: Path, index: ArchiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        discovery, "pseudonym", lambda key, digits: "ct-same" if digits == 8 else f"ct-{key[-4:]}{digits}"
    )
    for name in "ab":
        write_series(archive / name, sample_hu())
    names = [series.name for series in found(index, archive)]
    assert len(set(names)) == 2
    assert "ct-same" in names
    assert names == sorted(names)


def test_processes_find_what_threads_find(archive: Path, index: ArchiveIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_series(archive / name, sample_hu())
    expected = found(index, archive)
    monkeypatch.setattr(headers, "_CHUNKS_BEFORE_PROCESSES", 1)
    monkeypatch.setattr(headers, "_CHUNK", 2)
    with ArchiveIndex(archive.parent / "second.sqlite") as other:
        other.update([archive], workers=2)
        assert list(other.series(EVERYTHING)) == expected


def test_names_that_are_no_text_are_read(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a", sample_hu())
    os.rename(os.fsencode(archive / "a"), os.fsencode(archive) + b"/M\xfcller")
    (series,) = found(index, archive)
    assert read_volume(series.files).shape == (1, 12, 16, 5)
    assert found(index, archive) == [series]


def test_the_index_is_private_and_nothing_else_tells_names(
    archive: Path, index: ArchiveIndex, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = write_series(archive / "a", sample_hu())
    (archive / "Doe^Jane").write_bytes(bytes(128) + b"DICM")
    (series,) = found(index, archive)
    for file in index.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (archive / "a" / "I1").unlink()
    with pytest.raises(InputError) as refused:
        read_volume(series.files)
    shown = caplog.text + "".join(capsys.readouterr()) + repr(index.counts()) + series.name + str(refused.value)
    for secret in ("Secret", "SECRET", "Doe", uid, str(archive)):
        assert secret not in shown


def test_an_index_of_an_earlier_version_is_made_anew(archive: Path, index: ArchiveIndex) -> None:
    write_series(archive / "a", sample_hu())
    before = found(index, archive)
    index.close()
    with closing(sqlite3.connect(index.path)) as db:
        db.execute("PRAGMA user_version = 1")
    with ArchiveIndex(index.path) as again:
        assert list(again.series(EVERYTHING)) == []
        assert found(again, archive) == before


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match="no index"):
        ArchiveIndex(tmp_path / "index.sqlite")


def test_benchmark_finds_every_series(tmp_path: Path) -> None:
    index_benchmark.write_archive(tmp_path / "a", series=4, files=3)
    found = index_benchmark.measure(tmp_path / "a", tmp_path / "index.sqlite", expected=12, workers=1)
    assert found["series"] == 4
