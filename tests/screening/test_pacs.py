"""A real Orthanc as a source for screening: found under pseudonyms, opened by workers on their own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path

import pydicom
import pytest
from orthanc_server import PASSWORD, USER, Orthanc

from klip_monai.io.dicomweb import Pacs
from klip_monai.screening.pacs import FoundInPacs, PacsSource

LESION = Path(__file__).resolve().parents[2] / "sample_data" / "lesion"
WORKER = """
import pickle, sys
found = pickle.load(sys.stdin.buffer)
with found.files.open() as folder:
    print(folder, len(list(folder.iterdir())), "torch" in sys.modules, sep="|")
"""


@dataclass(frozen=True)
class Filters:
    modality: str = "CT"
    since: date | None = None
    body_part: str = "ABDOMEN"

    def reason_to_skip(self, found: FoundInPacs) -> str:
        return "" if found.body_part == self.body_part else "another body part"


@pytest.fixture(scope="module")
def source() -> pydicom.Dataset:
    return pydicom.dcmread(next(LESION.iterdir()))


@pytest.fixture
def server(orthanc: Orthanc) -> PacsSource:
    """A server that has the sample series among whatever else is there."""
    orthanc.add(LESION)
    return PacsSource(Pacs(orthanc.dicomweb))


def sample(server: PacsSource, source: pydicom.Dataset, filters: Filters) -> list[FoundInPacs]:
    """What is found of the sample series."""
    return [found for found in server.series(filters) if found.key == source.SeriesInstanceUID]


def test_series_has_a_pseudonym_and_what_filters_need(server: PacsSource, source: pydicom.Dataset) -> None:
    (found,) = sample(server, source, Filters())
    assert found.name == f"ct-{sha256(source.SeriesInstanceUID.encode()).hexdigest()[:8]}"
    assert (found.modality, found.description, found.n_slices) == ("CT", source.SeriesDescription, 28)
    assert found.body_part == source.BodyPartExamined
    assert f"{found.date:%Y%m%d}" == source.StudyDate
    assert found.reason == ""


def test_what_the_server_leaves_out_does_not_appear_and_the_rest_comes_with_a_reason(
    server: PacsSource, source: pydicom.Dataset
) -> None:
    assert list(server.series(Filters(modality="MR"))) == []
    assert list(server.series(Filters(since=date(2100, 1, 1)))) == []
    (found,) = sample(server, source, Filters(body_part="HEAD"))
    assert found.reason == "another body part"
    assert found.files is None


def test_worker_opens_a_series_on_its_own(server: PacsSource, source: pydicom.Dataset) -> None:
    (found,) = sample(server, source, Filters())
    pickled = pickle.dumps(found)
    for secret in (USER, PASSWORD, str(source.PatientName), source.PatientID):
        assert secret.encode() not in pickled
    worker = subprocess.run([sys.executable, "-c", WORKER], input=pickled, capture_output=True, timeout=120, check=True)
    folder, n_files, heavy = worker.stdout.decode().strip().split("|")
    assert (Path(folder).name, n_files, heavy) == (found.name, "28", "False")
    assert not Path(folder).parent.exists()
