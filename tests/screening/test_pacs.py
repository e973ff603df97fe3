"""A real Orthanc as a source for screening: found under pseudonyms, opened by workers on their own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import Result
from orthanc_server import PASSWORD, USER, Orthanc
from screen_runs import screen_command
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.errors import InputError
from klip_monai.io.pacs.dicomweb import Pacs, RemoteSeries
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.found import FoundSeries, SeriesFilter
from klip_monai.screening.ledger import FILE_NAME, Ledger
from klip_monai.screening.pacs import series_in_pacs
from klip_monai.screening.scorer import Job, Model, score_one

LESION = Path(__file__).resolve().parents[2] / "sample_data" / "lesion"
WORKER = """
import pickle, sys
found = pickle.load(sys.stdin.buffer)
with found.files.open() as folder:
    print(folder, len(list(folder.iterdir())), "torch" in sys.modules, sep="|")
"""


@pytest.fixture(scope="module")
def source() -> pydicom.Dataset:
    return pydicom.dcmread(next(LESION.iterdir()))


@pytest.fixture
def server(orthanc: Orthanc) -> Pacs:
    """A server that has the sample series among whatever else is there."""
    orthanc.add(LESION)
    return Pacs(orthanc.dicomweb)


def sample(server: Pacs, source: pydicom.Dataset, **wanted: Any) -> list[FoundSeries]:
    """What is found of the sample series."""
    return [found for found in series_in_pacs(server, SeriesFilter(**wanted)) if found.key == source.SeriesInstanceUID]


def test_series_has_a_pseudonym_and_what_filters_need(server: Pacs, source: pydicom.Dataset) -> None:
    (found,) = sample(server, source)
    assert found.name == f"ct-{sha256(source.SeriesInstanceUID.encode()).hexdigest()[:8]}"
    assert (found.modality, found.description, found.n_slices) == ("CT", source.SeriesDescription, 28)
    assert found.body_part == source.BodyPartExamined
    assert f"{found.date:%Y%m%d}" == source.StudyDate
    assert found.reason == ""


def test_what_the_server_leaves_out_does_not_appear_and_the_rest_comes_with_a_reason(
    server: Pacs, source: pydicom.Dataset
) -> None:
    assert series_in_pacs(server, SeriesFilter(modality="MR")) == []
    assert series_in_pacs(server, SeriesFilter(since=date(2100, 1, 1))) == []
    (found,) = sample(server, source, body_part="HEAD")
    assert found.reason == f"body part {source.BodyPartExamined}, expected HEAD"
    assert found.files is None


def test_worker_opens_a_series_on_its_own(server: Pacs, source: pydicom.Dataset) -> None:
    (found,) = sample(server, source)
    pickled = pickle.dumps(found)
    for secret in (USER, PASSWORD, str(source.PatientName), source.PatientID):
        assert secret.encode() not in pickled
    worker = subprocess.run([sys.executable, "-c", WORKER], input=pickled, capture_output=True, timeout=120, check=True)
    folder, n_files, heavy = worker.stdout.decode().strip().split("|")
    assert (Path(folder).name, n_files, heavy) == (found.name, "28", "False")
    assert not Path(folder).parent.exists()


def test_series_whose_pseudonyms_coincide_get_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteSeries, "name", "ct-00000000")
    pacs = Pacs("http://localhost")
    monkeypatch.setattr(Pacs, "find_series", lambda *_, **__: iter(RemoteSeries(pacs, "1", uid) for uid in "23"))
    names = [found.name for found in series_in_pacs(pacs, SeriesFilter())]
    assert len({*names}) == 2
    assert {len(name) for name in names} == {len("ct-") + 16}


@dataclass(frozen=True)
class Screened:
    """What a screening of three series of a server left, one of them with a hole, and what it says."""

    output: Path
    temporary: Path
    studies: list[str]
    entries: list[Entry]
    result: Result
    again: Result


@pytest.fixture(scope="module")
def screened(
    orthanc_server: Orthanc, quick_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Screened]:
    """Three series of a study of their own each, screened twice straight from the server and pushed back to it."""
    studies = [_filed(orthanc_server, tmp_path_factory.mktemp("series"), leave_out=n) for n in ((), (), (14,))]
    output, temporary = tmp_path_factory.mktemp("screened"), tmp_path_factory.mktemp("temporary")
    base = orthanc_server.dicomweb
    command = screen_command(base, output, quick_bundle, "--outputs", "dicom-seg", "--push", base)[3:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        patch.setenv("KLIP_PACS_USER", USER)
        patch.setenv("KLIP_PACS_PASSWORD", PASSWORD)
        command += ["--description", "for screening", "--key-file", str(output / "key.csv")]
        result, again = (CliRunner().invoke(app, command) for _ in range(2))
        with Ledger(output / FILE_NAME) as ledger:
            entries = [entry for entry in ledger.entries() if entry.state is not State.skipped]
        yield Screened(output, temporary, studies, entries, result, again)


def _filed(server: Orthanc, folder: Path, *, leave_out: Collection[int]) -> str:
    """File some slices of the sample as a study of its own; gives the study."""
    study, series = (pydicom.uid.generate_uid() for _ in range(2))
    for path in LESION.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        if 12 <= int(dataset.InstanceNumber) <= 16 and int(dataset.InstanceNumber) not in leave_out:
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            dataset.SeriesDescription = "for screening"
            dataset.save_as(folder / path.name)
    server.add(folder)
    return str(study)


def test_series_of_a_server_are_scored_or_refused(screened: Screened) -> None:
    assert screened.result.exit_code == 3, screened.result.output
    assert sorted(entry.state.value for entry in screened.entries) == ["refused", "scored", "scored"]
    (refused,) = (entry for entry in screened.entries if entry.state is State.refused)
    assert refused.group == "missing or uneven slices"
    assert list(screened.temporary.iterdir()) == []


def test_overlays_of_scored_series_are_filed_with_their_studies_once(screened: Screened, orthanc: Orthanc) -> None:
    assert screened.again.exit_code == 3
    pacs = Pacs(orthanc.dicomweb)
    filed = [len(list(pacs.find_series(study_uid=study, modality="SEG"))) for study in screened.studies]
    assert filed == [1, 1, 0]


def test_only_the_key_file_tells_which_series_they_were(screened: Screened) -> None:
    key = (screened.output / "key.csv").read_text()
    for study in screened.studies:
        assert study in key
        for path in screened.output.rglob("*"):
            if path.is_file() and path.suffix not in (".csv", ".dcm"):
                assert study.encode() not in path.read_bytes(), path.name


def test_a_server_that_fails_fails_the_series_and_not_the_run(quick_bundle: Path, tmp_path: Path) -> None:
    gone = RemoteSeries(Pacs("http://127.0.0.1:9", retries=0), "1.2", "3.4")
    outcome = score_one(Job(Entry("ct-aa"), gone, Model(quick_bundle, batch_size=16), tmp_path))
    assert (outcome.entry.state, outcome.entry.group) == (State.failed, "server")
    assert "no connection" in outcome.entry.reason


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--push", "{base}"), "--outputs dicom-seg,dicom-pm"), (("elsewhere",), "the server alone")],
)
def test_what_cannot_work_is_refused_before_any_work(
    orthanc: Orthanc, quick_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    options = [text.format(base=orthanc.dicomweb) for text in arguments]
    command = screen_command(orthanc.dicomweb, tmp_path / "out", quick_bundle, *options)[3:]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError)
    assert word in str(refused.exception)
    assert not (tmp_path / "out").exists()
