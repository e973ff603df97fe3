"""`score` with a PACS at both ends: a series of a real Orthanc in, DICOM overlays back to its study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from click.testing import Result
from orthanc_server import PASSWORD, USER, Orthanc
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.errors import InputError, KlipError
from klip_monai.io.pacs.dicomweb import Pacs

LESION = Path(__file__).resolve().parents[1] / "sample_data" / "lesion"


def klip_monai(*args: object, temporary: Path, password: str = PASSWORD) -> Result:
    """Run a command in this process, with credentials in its environment and a temporary folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        return CliRunner().invoke(
            app, list(map(str, args)), env={"KLIP_PACS_USER": USER, "KLIP_PACS_PASSWORD": password}
        )


@dataclass(frozen=True)
class Pushed:
    """What a run left: its printed result, folder, temporary folder, and how many objects it added to the server."""

    result: Result
    output: Path
    temporary: Path
    source: pydicom.Dataset
    added: int


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slices through the lesion, as a study of their own."""
    folder, study_uid, series_uid = tmp_path_factory.mktemp("slices"), *(pydicom.uid.generate_uid() for _ in range(2))
    for path in LESION.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        if 12 <= int(dataset.InstanceNumber) <= 15:
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            dataset.save_as(folder / path.name)
    return folder


@pytest.fixture(scope="module")
def pushed(orthanc_server: Orthanc, slices: Path, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """The slices, scored straight from the server and pushed back to it."""
    orthanc_server.add(slices)
    source = pydicom.dcmread(next(slices.iterdir()))
    before = orthanc_server.counts()["Instances"]
    output, temporary = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("temporary")
    base = orthanc_server.dicomweb
    result = klip_monai(
        *("score", f"{base}/studies/{source.StudyInstanceUID}/series/{source.SeriesInstanceUID}", "-o", output),
        *("--bundle", "klip_ct_phantom", "--outputs", "dicom-seg,dicom-pm", "--push", base),
        temporary=temporary,
    )
    return Pushed(result, output, temporary, source, orthanc_server.counts()["Instances"] - before)


def fetched(pacs: Pacs, source: pydicom.Dataset, modality: str, folder: Path) -> Path:
    """The one object of a modality in the source's study."""
    (series,) = pacs.find_series(study_uid=source.StudyInstanceUID, modality=modality)
    pacs.fetch_series(series.study_uid, series.series_uid, folder)
    (path,) = folder.iterdir()
    return path


def test_overlays_are_filed_with_the_study_and_nothing_else(pushed: Pushed) -> None:
    assert pushed.result.exit_code == 0, pushed.result.exception
    assert "2 objects" in pushed.result.output
    assert pushed.added == 2


def test_files_go_by_the_pseudonym_and_no_copy_of_the_scan_stays(pushed: Pushed) -> None:
    names = sorted(path.name for path in pushed.output.iterdir())
    assert {name.split("_")[0] for name in names} == {names[0].split("_")[0]}
    assert names[0].startswith("ct-")
    assert list(pushed.temporary.iterdir()) == []
    assert PASSWORD not in pushed.result.output


@pytest.mark.parametrize(("kind", "modality"), [("seg", "SEG"), ("pm", "OT")])
def test_server_gives_back_what_was_written(
    orthanc: Orthanc, pushed: Pushed, tmp_path: Path, kind: str, modality: str
) -> None:
    (path,) = pushed.output.glob(f"*_{kind}.dcm")
    written = pydicom.dcmread(path)
    back = pydicom.dcmread(fetched(Pacs(orthanc.dicomweb), pushed.source, modality, tmp_path / "back"))
    pixels = "PixelData" if kind == "seg" else "FloatPixelData"
    assert back[pixels].value == written[pixels].value
    assert back == written
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert back[keyword].value == pushed.source[keyword].value


def test_segments_of_the_server_are_the_voxels_that_were_written(
    orthanc: Orthanc, pushed: Pushed, slices: Path, tmp_path: Path
) -> None:
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in slices.iterdir()]
    (written,) = pushed.output.glob("*_seg.dcm")
    back = fetched(Pacs(orthanc.dicomweb), pushed.source, "SEG", tmp_path / "back")
    voxels = [
        hd.seg.segread(path).get_pixels_by_source_instance(uids, ignore_spatial_locations=True)
        for path in (written, back)
    ]
    assert voxels[0].any()
    np.testing.assert_array_equal(*voxels)


@pytest.mark.parametrize(
    ("arguments", "password", "word"),
    [
        (("--push", "{base}"), PASSWORD, "--outputs dicom-seg,dicom-pm"),
        (("--outputs", "dicom-seg", "--push", "{base}"), "wrong", "401"),
        (("--outputs", "dicom-seg", "--push", "nowhere"), PASSWORD, "DICOMweb"),
    ],
)
def test_push_that_cannot_work_is_refused_before_any_work(
    orthanc_server: Orthanc, slices: Path, tmp_path: Path, arguments: tuple[str, ...], password: str, word: str
) -> None:
    given = [text.format(base=orthanc_server.dicomweb) for text in arguments]
    refused = klip_monai("score", slices, "-o", tmp_path / "out", *given, temporary=tmp_path, password=password)
    assert isinstance(refused.exception, KlipError)
    assert word in str(refused.exception)
    assert list(tmp_path.iterdir()) == []


def test_series_that_the_server_does_not_have_is_refused(orthanc_server: Orthanc, tmp_path: Path) -> None:
    url = f"{orthanc_server.dicomweb}/studies/1.2.3/series/4.5.6"
    refused = klip_monai("score", url, "-o", tmp_path / "out", temporary=tmp_path)
    assert isinstance(refused.exception, InputError)
    assert "no such series" in str(refused.exception)
    assert list(tmp_path.iterdir()) == []
