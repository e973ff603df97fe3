"""`klip-monai screen` from archive to results."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest
import torch
from screen_runs import screen, tiny_scan
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.errors import InputError
from klip_monai.scan.output_files import file_names
from klip_monai.screening import scorer
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.kill_study import contents
from klip_monai.screening.ledger import FILE_NAME, Ledger
from klip_monai.screening.placement import power_of_two, slices_per_batch
from klip_monai.screening.scorer import Job, Model, case_dir, score_one


def test_each_scan_has_its_case_and_the_bad_one_its_reason(screened):
    with Ledger(screened / FILE_NAME) as ledger:
        entries = list(ledger.entries())
    assert sorted(entry.state.value for entry in entries) == ["refused"] + ["scored"] * 5
    for entry in entries:
        if entry.state is State.scored:
            assert entry.case_dir == case_dir(entry.name)
            names = sorted(path.name for path in (screened / entry.case_dir).iterdir())
            assert names == sorted(file_names(entry.name, ["seg-nrrd"]).values())
            assert entry.n_slices == 3
            assert 0 < entry.p_value <= 1
            assert min(entry.read_seconds, entry.score_seconds, entry.write_seconds) > 0
        else:
            assert entry.group == "not Hounsfield units"
            assert not entry.case_dir


def test_nothing_but_the_key_file_and_the_index_tells_what_the_files_were_called(screened, archive):
    for path in screened.rglob("*"):
        if path.is_file() and path.name not in ("key.csv", "index.sqlite"):
            assert b"Smith" not in path.read_bytes(), path.name
    assert (screened / "key.csv").stat().st_mode & 0o777 == 0o600
    with (screened / "key.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(Path(row["path"]).name for row in rows) == sorted(path.name for path in archive.iterdir())


def test_tables_metrics_and_events_are_there(screened):
    assert len((screened / "ledger.csv").read_text().splitlines()) == 7
    assert (screened / "report.html").is_file()
    metrics = (screened / "metrics.prom").read_text()
    assert 'klip_screen_series{state="scored"} 5\n' in metrics
    assert "klip_screen_left_series 0\n" in metrics
    events = [json.loads(line) for line in (screened / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("done") == 6
    assert events[-1]["counts"]["scored"] == 5


def test_the_same_again_does_nothing_and_a_dry_run_says_so(screened, archive, quick_bundle):
    before = contents(screened)
    again = screen(archive, screened, quick_bundle)
    assert again.exit_code == 3
    plan = screen(archive, screened, quick_bundle, "--dry-run", "--min-slices", 1)
    assert plan.exit_code == 0
    assert "scored before   5" in plan.stdout
    assert contents(screened) == before


def test_other_settings_are_refused(screened, archive, quick_bundle):
    refused = screen(archive, screened, quick_bundle, "--seed", 7)
    assert isinstance(refused.exception, InputError)
    assert "seed 7 (was 0)" in str(refused.exception)


def test_going_on_in_another_precision_is_said_and_recorded(screened, archive, quick_bundle, tmp_path):
    output = tmp_path / "screened"
    shutil.copytree(screened, output)
    with Ledger(output / FILE_NAME) as ledger:
        (before,) = ledger.precisions()
        redo = next(entry.name for entry in ledger.entries() if entry.state is State.scored)
        ledger._sql.execute("UPDATE series SET state = 'pending' WHERE name = ?", (redo,))
    other = {"float32": "bfloat16", "bfloat16": "float32"}[before]
    again = screen(archive, output, quick_bundle, "--precision", other)
    assert again.exit_code == 3
    said = " ".join(again.stderr.split())
    assert f"precision: got {other} here, where earlier series were scored in {before}" in said
    with Ledger(output / FILE_NAME) as ledger:
        assert ledger.precisions() == {before: 4, other: 1}
        assert ledger.provenance(redo)["precision"] == other
    rows = {row["name"]: row["precision"] for row in csv.DictReader((output / "ledger.csv").open())}
    assert rows[redo] == other
    assert f"{before} (4 series), {other} (1 series)" in (output / "report.html").read_text()
    assert "precision: got" not in screen(archive, screened, quick_bundle).stderr


def test_tables_are_written_anew_on_request(screened, tmp_path):
    shutil.copy(screened / FILE_NAME, tmp_path)
    result = CliRunner().invoke(app, ["screen", "--output", str(tmp_path), "--export-only"])
    assert result.exit_code == 0
    assert (tmp_path / "ledger.csv").read_text() == (screened / "ledger.csv").read_text()


@pytest.fixture
def job(archive, quick_bundle, tmp_path) -> Job:
    model = Model(quick_bundle, batch_size=16)
    return Job(Entry("ct-aa"), archive / "Smith_0.nii.gz", model, tmp_path)


def test_a_scan_is_named_by_its_pseudonym_and_sent_on(job, tmp_path):
    sent = []
    outcome = score_one(Job(job.entry, job.files, job.model, tmp_path, lambda *given: sent.append(given)))
    assert outcome.entry.state is State.scored
    assert sent == [(tmp_path / "cases" / "aa" / "ct-aa", outcome.entry)]
    summary = json.loads((sent[0][0] / "ct-aa_summary.json").read_text())
    assert summary["name"] == "ct-aa"
    assert outcome.provenance == summary["provenance"]
    first = summary["candidates"][0]
    assert outcome.entry.n_candidates == summary["candidate_count"] > 0
    assert (list(outcome.entry.first_ras_mm), outcome.entry.first_ml) == (first["peak_ras_mm"], first["volume_ml"])
    assert outcome.entry.p_value == first["p"]


def test_slices_are_counted_along_the_axis_that_was_scored_whatever_the_order_in_the_file(job, tmp_path):
    image = tiny_scan(0)
    nib.save(image.as_reoriented(nib.io_orientation(image.affine)[[2, 0, 1]]), tmp_path / "turned.nii")
    turned = nib.load(tmp_path / "turned.nii")
    assert sorted(turned.shape) == [3, 100, 100]
    assert turned.shape[2] != 3
    outcome = score_one(replace(job, files=tmp_path / "turned.nii"))
    assert outcome.entry.state is State.scored
    assert outcome.entry.n_slices == 3


def test_crashes_are_told_by_their_kind_alone(job, monkeypatch):
    def crash(*_):
        raise MemoryError("/data/Smith") if crash.memory else KeyError("Smith")

    monkeypatch.setattr(scorer._Opened, "run", crash)
    for crash.memory, group in ((True, "out of memory"), (False, "unexpected KeyError")):
        outcome = score_one(job)
        assert outcome.entry.state is State.failed
        assert outcome.entry.group == group
        assert "Smith" not in str(outcome.entry)
        assert "Smith" in outcome.trace


def test_a_scan_that_is_gone_is_no_verdict_and_told_without_its_path(job, tmp_path):
    outcome = score_one(Job(job.entry, tmp_path / "Smith.nii.gz", job.model, tmp_path))
    assert (outcome.entry.state, outcome.entry.group) == (State.failed, "not found")
    assert "Smith" not in str(outcome.entry)


def test_gpu_batches_are_powers_of_two_that_fit(monkeypatch):
    assert [power_of_two(most) for most in (0, 1, 3, 64, 100, 5000)] == [1, 1, 2, 64, 64, 128]
    assert slices_per_batch(None, (8, 8), "cpu", default=16) == 16


def test_screening_reads_what_score_reads(tmp_path, archive, quick_bundle):
    """The overlay is the one that `score` writes."""
    source = archive / "Smith_0.nii.gz"
    options = ["--bundle", str(quick_bundle), "--outputs", "nifti", "--keep-names"]
    done = CliRunner().invoke(app, ["score", str(source), "-o", str(tmp_path), *options])
    assert done.exit_code == 0, done.exception
    score_one(Job(Entry("ct-aa"), source, Model(quick_bundle, outputs=("nifti",)), tmp_path))
    images = [tmp_path / "Smith_0_heatmap.nii.gz", tmp_path / case_dir("ct-aa") / "ct-aa_heatmap.nii.gz"]
    one, two = (torch.from_numpy(nib.load(path).get_fdata()) for path in images)
    assert torch.equal(one, two)


def test_what_is_passed_over_is_said(tmp_path, quick_bundle):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "note").write_text("hello")
    (tmp_path / "archive" / "broken").write_bytes(bytes(128) + b"DICM" + b"\xff" * 99)
    done = screen(tmp_path / "archive", tmp_path / "out", quick_bundle, "--dry-run")
    assert "passed over: 1 x damaged file, 1 x not DICOM" in done.output + done.stderr


def test_a_scan_that_could_not_be_read_is_read_when_the_disk_is_back(archive, quick_bundle, tmp_path, monkeypatch):
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    victim, load = "Smith_2.nii.gz", nib.load

    def stale(path, *args, **kwargs):
        if Path(path).name == victim:
            raise OSError(errno.ESTALE, "Stale file handle")
        return load(path, *args, **kwargs)

    monkeypatch.setattr("klip_monai.io.files.nifti.nib.load", stale)
    first = screen(folder, tmp_path / "out", quick_bundle)
    assert first.exit_code == 3
    with Ledger(tmp_path / "out" / FILE_NAME) as ledger:
        (failed,) = [entry for entry in ledger.entries() if entry.state is State.failed]
        assert failed.group == "no access"
    monkeypatch.undo()
    screen(folder, tmp_path / "out", quick_bundle)
    with Ledger(tmp_path / "out" / FILE_NAME) as ledger:
        states = {entry.name: entry.state for entry in ledger.entries()}
    assert states[failed.name] is State.scored, "without --retry"
    assert list(states.values()).count(State.refused) == 1, "a verdict stays"


def test_results_that_were_deleted_are_made_again(screened, archive, quick_bundle, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(screened, output)
    with Ledger(output / FILE_NAME) as ledger:
        first, second = [entry for entry in ledger.entries() if entry.state is State.scored][:2]
    overlay = next((output / first.case_dir).glob("*.seg.nrrd"))
    before = contents(output)
    overlay.unlink()
    next((output / second.case_dir).glob("*_summary.json")).write_text("")
    assert screen(archive, output, quick_bundle).exit_code == 3
    assert contents(output) == before
