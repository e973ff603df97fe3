"""The loop: every series comes to an end, whatever the workers do. Workers are scripted here."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from klip_monai.errors import OutputError
from klip_monai.screening import engine
from klip_monai.screening.engine import Screening
from klip_monai.screening.entry import State
from klip_monai.screening.found import FoundSeries
from klip_monai.screening.ledger import Ledger
from klip_monai.screening.scorer import Model, Outcome, failed
from klip_monai.screening.workers import StuckError, WorkerDiedError


def found_series(*names: str) -> list[FoundSeries]:
    return [FoundSeries(name, f"uid of {name}", "CT", "secret", n_slices=5, files=Path(name)) for name in names]


class Scripted:
    """Workers that do as the name of a scan says: "dies", "crashes", "hangs", "full", ...; others are scored."""

    dashboard = ""

    def __init__(self, capacity: int = 3, *, stoppable: bool = True) -> None:
        self.capacity, self.stoppable = capacity, stoppable
        self.starts: Counter[str] = Counter()
        self.most, self._open = 0, {}

    def submit(self, job):
        name = job.entry.name
        self.starts[name] += 1
        future: Future[Outcome] = Future()
        self._open[name] = future
        self.most = max(self.most, sum(not f.done() for f in self._open.values()))
        if name.startswith("hangs"):
            return future
        if name.startswith("dies") and not (name.startswith("dies-once") and self.starts[name] > 1):
            future.set_exception(WorkerDiedError())
        elif name.startswith("crashes"):
            future.set_result(Outcome(failed(job.entry, "stopped by an unexpected ValueError", "bug"), trace="Trace"))
        elif name.startswith("full"):
            future.set_exception(OutputError("disk full"))
        else:
            done = replace(job.entry, state=State.scored, scan_score=1.0, p_value=0.5)
            future.set_result(Outcome(done, {"seed": 0}))
        return future

    def running_since(self, name):
        return time.monotonic() - 1.0

    def stop(self, name):
        if not self.stoppable:
            raise StuckError("stuck")


@pytest.fixture
def screening(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_TICK", 0.01)
    monkeypatch.setattr(engine, "_AGAIN", 0.01)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield Screening(ledger, Scripted(), Model(Path("bundle")), tmp_path)


def states(screening) -> dict[str, str]:
    return {entry.name: entry.state.value for entry in screening.ledger.entries()}


def test_every_series_comes_to_an_end(screening):
    found = found_series(*(f"ct-{n}" for n in range(10)))
    found.append(FoundSeries("mr", "uid", reason="modality MR, expected CT"))
    tally = screening.run(iter(found))
    assert screening.ledger.counts() == {State.scored: 10, State.skipped: 1}
    assert tally.counts[State.scored] == tally.handled == 10
    assert screening.workers.most <= screening.workers.capacity
    assert not any(entry.description for entry in screening.ledger.entries())


def test_a_second_run_does_nothing(screening):
    found = found_series(*(f"ct-{n}" for n in range(4)))
    screening.run(found)
    before = screening.workers.starts.total()
    screening.run(found)
    assert screening.workers.starts.total() == before


def test_what_dies_or_crashes_is_tried_once_more_and_then_failed(screening):
    logged = []
    screening.log = lambda name, trace: logged.append((name, trace))
    screening.run(found_series("dies", "dies-once", "crashes", "ct-1"))
    assert states(screening) == {"dies": "failed", "dies-once": "scored", "crashes": "failed", "ct-1": "scored"}
    assert screening.workers.starts == {"dies": 2, "dies-once": 2, "crashes": 2, "ct-1": 1}
    entries = {entry.name: entry for entry in screening.ledger.entries()}
    assert entries["dies"].attempts == 2
    assert entries["dies"].group == "worker died"
    assert logged == [("crashes", "Trace")] * 2


def test_a_scan_that_hangs_is_stopped_and_failed(screening, monkeypatch):
    monkeypatch.setattr(engine, "_START_SECONDS", 0.0)
    screening.timeout = 0.01
    screening.run(found_series("hangs", "ct-1"))
    assert states(screening) == {"ct-1": "scored", "hangs": "failed"}
    assert screening.workers.starts["hangs"] == 2


def test_a_scan_that_cannot_be_stopped_ends_the_run_and_is_not_begun_again(screening, monkeypatch):
    monkeypatch.setattr(engine, "_START_SECONDS", 0.0)
    screening.timeout, screening.workers = 0.01, Scripted(stoppable=False)
    with pytest.raises(StuckError):
        screening.run(found_series("hangs"))
    assert states(screening) == {"hangs": "failed"}


def test_a_full_disk_ends_the_run_and_fails_no_scan(screening, tmp_path):
    with pytest.raises(OutputError):
        screening.run(found_series("full", "ct-1"))
    screening.ledger.close()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.counts()[State.failed] == 0
        assert ledger.counts()[State.running] == 0


def test_series_of_another_process_are_waited_for_and_taken_over_when_it_dies(screening, monkeypatch):
    answers = iter(["elsewhere", "elsewhere", "ours"])
    real = screening.ledger.claim

    def claim(name, **about):
        answer = next(answers)
        return real(name, **about) if answer == "ours" else answer

    monkeypatch.setattr(screening.ledger, "claim", claim)
    screening.run(found_series("ct-1"))
    assert states(screening) == {"ct-1": "scored"}


class Shared(Scripted):
    """One worker for all, whose death takes all scans along that it has; scans last until it has no room for more."""

    def submit(self, job):
        name = job.entry.name
        self.starts[name] += 1
        self._open[name] = (future := Future()), job
        if name.startswith("dies"):
            for open_future, _ in self._open.values():
                open_future.set_exception(WorkerDiedError())
            self._open.clear()
        return future

    def running_since(self, name):
        future, job = self._open.pop(name, (None, None))
        if future is not None:
            future.set_result(Outcome(replace(job.entry, state=State.scored, scan_score=1.0, p_value=0.5), {}))
        return None


def test_scans_that_take_their_worker_down_fail_no_other(screening):
    screening.workers = Shared()
    names = [f"{kind}-{n}" for n in range(6) for kind in ("ct", "dies", "mr")]
    screening.run(found_series(*names))
    assert states(screening) == {name: "failed" if name.startswith("dies") else "scored" for name in names}
    assert max(screening.workers.starts.values()) == 2
