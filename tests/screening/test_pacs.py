"""A real Orthanc as a source for screening: found under pseudonyms, opened by workers on their own."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pydicom
import pytest
from orthanc_server import PASSWORD, USER, Orthanc

from klip_monai.io import read_volume
from klip_monai.io.dicomweb import Pacs
from klip_monai.screening.pacs import FoundInPacs, PacsSource

LESION = Path(__file__).resolve().parents[2] / "sample_data" / "lesion"


@dataclass(frozen=True)
class Filters:
    modality: str | None = "CT"
    since: date | None = None


@pytest.fixture
def found(orthanc: Orthanc) -> FoundInPacs:
    """The sample series, found on the server among whatever else is there."""
    orthanc.add(LESION)
    uid = pydicom.dcmread(next(LESION.iterdir())).SeriesInstanceUID
    return next(
        found for found in PacsSource(Pacs(orthanc.dicomweb)).series(Filters()) if found.files.series_uid == uid
    )


def first_and_last_hu(found: FoundInPacs) -> tuple[str, float, float, str]:
    """What a worker makes of a series: name, two voxels, and where it had the files."""
    with found.files.open() as folder:
        volume = read_volume(folder, series_uid=found.files.series_uid)
        return volume.meta["name"], float(volume[0, 0, 0, 0]), float(volume[0, 88, 88, 14]), str(folder)


def test_series_has_a_pseudonym_and_what_filters_need(found: FoundInPacs) -> None:
    source = pydicom.dcmread(next(LESION.iterdir()))
    digest = sha256(source.SeriesInstanceUID.encode()).hexdigest()
    assert (found.name, found.key) == (f"ct-{digest[:8]}", digest)
    assert (found.modality, found.description, found.n_slices) == ("CT", source.SeriesDescription, 28)
    assert found.body_part == source.get("BodyPartExamined", "")
    assert found.date is not None
    assert f"{found.date:%Y%m%d}" == source.StudyDate


def test_filters_are_passed_on(orthanc: Orthanc, found: FoundInPacs) -> None:
    source = PacsSource(Pacs(orthanc.dicomweb))
    assert list(source.series(Filters(modality="MR"))) == []
    assert found not in source.series(Filters(since=date(2100, 1, 1)))


def test_worker_opens_a_series_on_its_own(found: FoundInPacs) -> None:
    pickled = pickle.dumps(found)
    patient = pydicom.dcmread(next(LESION.iterdir()))
    for secret in (USER, PASSWORD, str(patient.PatientName), patient.PatientID):
        assert secret.encode() not in pickled
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        name, first, middle, folder = pool.submit(first_and_last_hu, found).result(timeout=60)
    expected = read_volume(LESION)[0]
    assert name == found.name
    np.testing.assert_array_equal([first, middle], [float(expected[0, 0, 0]), float(expected[88, 88, 14])])
    assert not Path(folder).exists()
