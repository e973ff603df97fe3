"""A real Orthanc over DICOMweb: series are found and fetched as they are stored, and derived objects are filed."""

from __future__ import annotations

import pickle
import stat
from copy import deepcopy
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ct_files import sample_hu, write_series
from orthanc_server import PASSWORD, USER, Orthanc
from pydicom.uid import CTImageStorage, RLELossless, generate_uid

from klip_monai.errors import InputError, PacsError
from klip_monai.io import read_volume
from klip_monai.io.pacs.dicomweb import Pacs, RemoteSeries, series_at


@pytest.fixture
def pacs(orthanc: Orthanc) -> Pacs:
    return Pacs(orthanc.dicomweb + "/", retries=0)


def add_series(orthanc: Orthanc, folder: Path, **tags: str) -> tuple[str, str]:
    """File a series of five slices; gives the UIDs of its study and series."""

    def edit(_: int, dataset: pydicom.Dataset) -> None:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    series_uid = write_series(folder, sample_hu(), edit=edit)
    orthanc.add(folder)
    return str(pydicom.dcmread(next(folder.iterdir())).StudyInstanceUID), series_uid


def derived(source: pydicom.Dataset, **tags: object) -> pydicom.Dataset:
    """An image derived from another, in a series of its own."""
    dataset = deepcopy(source)
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = generate_uid(), generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def test_fetched_volume_equals_that_of_the_files(orthanc: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    study_uid, series_uid = add_series(orthanc, tmp_path / "files")
    steps: list[tuple[int, int]] = []
    remote = series_at(f"{pacs.url}/studies/{study_uid}/series/{series_uid}")
    with remote.open(progress=lambda done, total: steps.append((done, total))) as folder:
        fetched = read_volume(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        assert not any(series_uid in path.name for path in folder.iterdir())
    assert not folder.parent.exists()
    expected = read_volume(tmp_path / "files")
    np.testing.assert_array_equal(fetched.numpy(), expected.numpy())
    np.testing.assert_array_equal(fetched.affine, expected.affine)
    assert fetched.meta["name"] == remote.name
    assert steps == [(done, 5) for done in range(1, 6)]


def test_compressed_images_come_as_they_are_stored(orthanc: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    study_uid, _ = add_series(orthanc, tmp_path / "plain")
    other = generate_uid()
    (tmp_path / "compressed").mkdir()
    for path in (tmp_path / "plain").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=True)
        dataset.SeriesInstanceUID = other
        dataset.save_as(tmp_path / "compressed" / path.name)
    orthanc.add(tmp_path / "compressed")
    assert pacs.fetch_series(study_uid, other, tmp_path / "fetched") == 5
    files = {pydicom.dcmread(path).SOPInstanceUID: path for path in (tmp_path / "compressed").iterdir()}
    for path in (tmp_path / "fetched").iterdir():
        fetched = pydicom.dcmread(path)
        assert fetched.file_meta.TransferSyntaxUID == RLELossless
        assert fetched.PixelData == pydicom.dcmread(files[fetched.SOPInstanceUID]).PixelData


def test_series_are_found_page_by_page_each_once(orthanc: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    added = [add_series(orthanc, tmp_path / str(n), BodyPartExamined="PAGING") for n in range(5)]
    found = list(pacs.find_series(body_part="paging", page=2))
    assert sorted((series.study_uid, series.series_uid) for series in found) == sorted(added)


@pytest.mark.parametrize(
    ("filters", "n_found"),
    [
        ({"modality": "CT"}, 2),
        ({"modality": "MR"}, 0),
        ({"body_part": "abdomen"}, 1),
        ({"description": "*VENOUS*"}, 1),
        ({"since": date(2024, 5, 1)}, 1),
        ({"modality": "CT", "since": date(2020, 1, 1)}, 2),
    ],
)
def test_filters_narrow_the_search_down(
    orthanc: Orthanc, pacs: Pacs, tmp_path: Path, filters: dict[str, object], n_found: int
) -> None:
    uids = [
        add_series(orthanc, tmp_path / "a", BodyPartExamined="ABDOMEN", StudyDate="20240501")[1],
        add_series(orthanc, tmp_path / "b", SeriesDescription="native [1]", StudyDate="20240430")[1],
    ]
    found = [series for series in pacs.find_series(page=3, **filters) if series.series_uid in uids]
    assert len(found) == n_found
    for series in found:
        assert series.n_instances == 5
        assert series.modality == "CT"
        assert series.date in (date(2024, 5, 1), date(2024, 4, 30))


def test_study_with_one_ct_series_needs_no_series_and_with_two_lists_them(
    orthanc: Orthanc, pacs: Pacs, tmp_path: Path
) -> None:
    study_uid, first = add_series(orthanc, tmp_path / "first")
    assert series_at(f"{pacs.url}/studies/{study_uid}").series_uid == first
    assert series_at(pacs.url, first).study_uid == study_uid
    second = add_series(orthanc, tmp_path / "second", StudyInstanceUID=study_uid)[1]
    with pytest.raises(InputError, match="--series-uid") as caught:
        series_at(f"{pacs.url}/studies/{study_uid}")
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert series_at(f"{pacs.url}/studies/{study_uid}", second).series_uid == second


def test_series_that_is_not_there_is_refused(pacs: Pacs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such series"):
        series_at(f"{pacs.url}/studies/1.2.3/series/4.5.6")
    with pytest.raises(InputError, match="no such series"):
        pacs.fetch_series("1.2.3", "4.5.6", tmp_path)


def test_derived_objects_are_filed_with_their_study(orthanc: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    study_uid, _ = add_series(orthanc, tmp_path / "files")
    source = pydicom.dcmread(next((tmp_path / "files").iterdir()))
    first, second = derived(source), derived(source)
    second.save_as(tmp_path / "second.dcm")
    assert pacs.store([first, tmp_path / "second.dcm"]) == 2
    found = {series.series_uid for series in pacs.find_series(study_uid=study_uid)}
    assert {first.SeriesInstanceUID, second.SeriesInstanceUID} < found
    pacs.fetch_series(study_uid, first.SeriesInstanceUID, tmp_path / "back")
    assert pydicom.dcmread(next((tmp_path / "back").iterdir())) == first


def test_original_images_are_never_sent(orthanc: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    write_series(tmp_path / "files", sample_hu())
    before = orthanc.counts()
    original = pydicom.dcmread(next((tmp_path / "files").iterdir()))
    with pytest.raises(InputError, match="derived"):
        pacs.store([derived(original), original])
    assert orthanc.counts() == before


def test_wrong_password_is_refused_without_telling_it(pacs: Pacs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLIP_PACS_PASSWORD", "wrong-secret")
    with pytest.raises(PacsError, match=r"401.*KLIP_PACS_USER") as caught:
        pacs.check()
    assert "wrong-secret" not in str(caught.value)


def test_series_can_be_pickled_and_takes_no_credentials_along(orthanc: Orthanc, pacs: Pacs, tmp_path: Path) -> None:
    study_uid, _ = add_series(orthanc, tmp_path / "files")
    pickled = pickle.dumps(next(pacs.find_series(study_uid=study_uid)))
    for secret in (USER, PASSWORD):
        assert secret.encode() not in pickled
    remote: RemoteSeries = pickle.loads(pickled)
    with remote.open() as folder:
        assert len(list(folder.iterdir())) == 5
        assert pydicom.dcmread(next(folder.iterdir())).SOPClassUID == CTImageStorage
