"""The ledger: claims, leases, settings and what it keeps."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import fields, replace

import pytest

from klip_monai.errors import InputError, OutputError
from klip_monai.screening import ledger as ledgers
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.ledger import Ledger

ENTRY = Entry(
    "ct-aa",
    State.scored,
    description="abdomen",
    n_slices=9,
    scan_score=1.25,
    p_value=0.125,
    remarks=("long scan", "two remarks"),
    volume_ml={"Suspicious": 3.5, "Strongly suspicious": 0.0},
    worst_slice=4,
    top_slices=(4, 3, 5),
    n_candidates=2,
    first_ras_mm=(9.5, -3.25, 7.0),
    first_ml=3.25,
    case_dir="cases/aa/ct-aa",
    read_seconds=1.0,
    score_seconds=2.0,
    write_seconds=3.0,
    attempts=1,
    worker="local",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def other_process(path, monkeypatch, owner: str) -> Ledger:
    monkeypatch.setattr(ledgers, "_identity", lambda: owner)
    return Ledger(path)


def test_an_entry_comes_back_as_it_was_with_its_provenance(path):
    with Ledger(path) as ledger:
        assert ledger.claim("ct-aa", n_slices=9) == "ours"
        assert ledger.finish(ENTRY, {"seed": 3})
    with Ledger(path) as ledger:
        (back,) = ledger.entries()
        assert back.updated == pytest.approx(time.time(), abs=60)
        for field in fields(Entry):
            if field.name != "updated":
                assert getattr(back, field.name) == getattr(ENTRY, field.name), field.name
        assert ledger.provenance("ct-aa") == ledger.provenance() == {"seed": 3}
        assert ledger.counts() == {State.scored: 1}
        assert ledger.seconds_per_slice() == pytest.approx(6 / 9)


def test_a_series_is_claimed_once_and_done_once(path, monkeypatch):
    alive = f"{ledgers.socket.gethostname()}|{os.getppid()}|{ledgers._start_of(os.getppid())}"
    with Ledger(path) as ours, other_process(path, monkeypatch, alive) as theirs:
        assert ours.claim("ct-aa") == "ours"
        assert theirs.claim("ct-aa") == "elsewhere"
        assert ours.finish(ENTRY)
        assert ours.claim("ct-aa") == theirs.claim("ct-aa") == "done"


def test_what_a_dead_process_left_running_is_taken_over_and_counted_again(path, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = f"{ledgers.socket.gethostname()}|{child.pid}|{ledgers._start_of(child.pid)}"
    theirs = other_process(path, monkeypatch, owner)
    assert theirs.claim("ct-aa") == "ours"
    monkeypatch.undo()
    with Ledger(path) as ours:
        assert ours.claim("ct-aa") == "elsewhere"
        child.kill()
        child.wait()
        assert ours.claim("ct-aa") == "ours"
        assert ours.starts("ct-aa") == 2
        assert not theirs.finish(ENTRY), "a process taken for dead must not overwrite"
        assert ours.counts() == {State.running: 1}


def test_a_process_of_another_machine_is_dead_when_its_lease_ends(path, monkeypatch):
    theirs = other_process(path, monkeypatch, "elsewhere|1|1")
    assert theirs.claim("ct-aa") == "ours"
    monkeypatch.undo()
    with Ledger(path) as ours:
        assert ours.claim("ct-aa") == "elsewhere"
        monkeypatch.setattr(ledgers, "LEASE", -1.0)
        assert ours.claim("ct-aa") == "ours"


def test_leaving_the_ledger_frees_what_was_not_finished(path):
    with Ledger(path) as ledger:
        ledger.claim("ct-aa")
    with Ledger(path) as ledger:
        assert ledger.counts() == {State.pending: 1}
        assert ledger.claim("ct-aa") == "ours"


def test_a_scan_that_takes_every_process_down_is_given_up(path, monkeypatch):
    monkeypatch.setattr(ledgers, "_MAX_STARTS", 3)
    answers = []
    for _ in range(5):
        with Ledger(path) as ledger:
            answers.append(ledger.claim("ct-aa"))
    assert answers == ["ours", "ours", "ours", "done", "done"]
    with Ledger(path) as ledger:
        (entry,) = ledger.entries()
    assert (entry.state, entry.group, entry.attempts) == (State.failed, "process died", 3)


def test_a_series_that_got_more_slices_is_done_again(path):
    with Ledger(path) as ledger:
        ledger.claim("ct-aa", n_slices=9)
        ledger.finish(ENTRY)
        assert ledger.claim("ct-aa", n_slices=9) == "done"
        assert ledger.claim("ct-aa", n_slices=10) == "ours"


def test_a_series_that_was_scored_in_another_mask_is_done_again(path):
    with Ledger(path) as ledger:
        ledger.claim("ct-aa", mask="first")
        ledger.finish(ENTRY)
        assert ledger.claim("ct-aa", mask="first") == ledger.claim("ct-aa") == "done"
        assert ledger.standing("ct-aa", mask="second") == ("ours", State.scored)
        assert ledger.claim("ct-aa", mask="second") == "ours"
        ledger.finish(replace(ENTRY, state=State.refused))
        assert ledger.claim("ct-aa", mask="third") == "done"  # until --retry
        ledger.retry([State.refused])
        assert ledger.claim("ct-aa", mask="third") == "ours"


def test_a_mask_may_change_more_often_than_a_process_may_die(path):
    with Ledger(path) as ledger:
        for number in range(2 * ledgers._MAX_STARTS):
            assert ledger.claim("ct-aa", mask=f"mask {number}") == "ours"
            assert ledger.starts("ct-aa") == 1
            ledger.finish(ENTRY)


def test_what_was_scored_before_masks_were_noted_stays_as_it_is(path):
    with Ledger(path) as ledger:
        ledger.claim("ct-aa")
        ledger.finish(ENTRY)
        ledger._sql.execute("ALTER TABLE series DROP COLUMN mask")
    with Ledger(path) as ledger:
        assert ledger.claim("ct-aa", mask="first") == "done"
        ledger.retry([State.scored])
        assert ledger.claim("ct-aa", mask="first") == "ours"
        ledger.finish(ENTRY)
        assert ledger.claim("ct-aa", mask="second") == "ours"


def test_other_settings_are_refused_until_all_is_done_again(path):
    with Ledger(path) as ledger:
        ledger.agree({"seed": 0, "window": (1.0, 0.1)})
        ledger.agree({"seed": 0, "window": (1.0, 0.1)})
        ledger.claim("ct-aa")
        ledger.finish(ENTRY)
        with pytest.raises(InputError, match=r"got seed 1 \(was 0\).*--rescore"):
            ledger.agree({"seed": 1, "window": (1.0, 0.1)})
        assert ledger.claim("ct-aa") == "done"
        ledger.agree({"seed": 1, "window": (1.0, 0.1)}, rescore=True)
        assert ledger.settings()["seed"] == 1
        assert ledger.claim("ct-aa") == "ours"


def test_failed_series_are_done_again_when_asked_for(path):
    with Ledger(path) as ledger:
        ledger.claim("ct-aa")
        ledger.finish(Entry("ct-aa", State.failed, "crashed"))
        ledger.retry([State.refused])
        assert ledger.claim("ct-aa") == "done"
        ledger.retry([State.failed])
        assert ledger.claim("ct-aa") == "ours"


def test_skipping_is_noted_and_taken_back_but_never_hides_a_score(path):
    with Ledger(path) as ledger:
        ledger.skip("ct-bb", "modality MR, expected CT", group="modality MR")
        (entry,) = ledger.entries()
        assert (entry.state, entry.reason) == (State.skipped, "modality MR, expected CT")
        assert ledger.claim("ct-bb") == "ours"
        ledger.finish(Entry("ct-bb", State.scored, scan_score=1.0, p_value=0.5))
        ledger.skip("ct-bb", "older than 2020", group="older than")
        assert ledger.counts() == {State.scored: 1}


def test_a_ledger_of_an_older_version_gets_the_new_columns(path):
    with Ledger(path) as ledger:
        ledger._sql.execute("ALTER TABLE series DROP COLUMN remarks")
    with Ledger(path) as ledger:
        ledger.claim("ct-aa")
        ledger.finish(ENTRY)
        assert next(ledger.entries()).remarks == ENTRY.remarks


def test_scans_of_an_older_version_keep_their_rows_and_have_no_known_candidates(path):
    with Ledger(path) as ledger:
        ledger.claim("ct-aa")
        ledger.finish(ENTRY)
        for column in ("n_candidates", "first_ras_mm", "first_ml"):
            ledger._sql.execute(f"ALTER TABLE series DROP COLUMN {column}")
    with Ledger(path) as ledger:
        (back,) = ledger.entries()
        assert (back.n_candidates, back.first_ras_mm, back.first_ml) == (None, (), None)
        assert back.scan_score == ENTRY.scan_score


def test_a_file_that_is_no_ledger_is_refused(path):
    path.write_text("something else " * 100)
    with pytest.raises(OutputError, match="ledger"):
        Ledger(path)


def test_a_batch_size_is_kept_until_another_is_wanted(path):
    with Ledger(path) as ledger:
        assert ledger.batch_size(None, otherwise=64) == 64
        ledger.agree({"seed": 0})
    with Ledger(path) as ledger:
        assert ledger.batch_size(None, otherwise=128) == 64
        assert ledger.batch_size(8, otherwise=128) == 8
        ledger.agree({"seed": 0})
    with Ledger(path) as ledger:
        assert ledger.batch_size(None, otherwise=128) == 8
