"""The loop of a screening: claim a series, have it scored, record how it came out; whatever dies is done again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from klip_monai.screening.entry import Entry, State
from klip_monai.screening.found import FoundSeries
from klip_monai.screening.ledger import Ledger
from klip_monai.screening.masks import noting_masks
from klip_monai.screening.reasons import group_of_skipped
from klip_monai.screening.scorer import Job, Model, Outcome, failed
from klip_monai.screening.tally import Kind, Listener, Tally
from klip_monai.screening.workers import StuckError, WorkerDiedError, Workers

_TICK = 1.0
_AGAIN = 2.0  # s between looks at series that other processes have
_START_SECONDS = 300.0  # opening the bundle, a slow disk
_MANY_SLICES = 1000  # of a file that does not say how many it has before it is read


@dataclass
class Screening:
    """One process's part in screening an archive.

    Args:
        ledger: of the output folder, bound to the model's settings.
        workers: who scores.
        model: what to score with.
        output: folder of the results.
        attempts: how often a scan is started in this run before it is recorded as failed. Scans that failed are started
            again after all others, and those that were with a worker when it died each alone, so that a scan which
            takes its worker down takes no other scan along twice.
        timeout: seconds that a slice may take; a scan of n slices has 5 minutes and n times that.
        after: see :class:`klip_monai.screening.scorer.Job`.
        with_description: keep SeriesDescription, which may tell more than it should.
        listeners: are told what happens.
        log: is given the name and traceback of each crash.
    """

    ledger: Ledger
    workers: Workers
    model: Model
    output: Path
    attempts: int = 2
    timeout: float = 60.0
    after: Callable[[Path, Entry], None] | None = None
    with_description: bool = False
    listeners: Sequence[Listener] = ()
    log: Callable[[str, str], None] | None = None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._running: dict[Future[Outcome], Job] = {}
        self._again: deque[Job] = deque()
        self._alone: deque[Job] = deque()  # one of them may take its worker down
        self._tried: dict[str, int] = {}
        self._elsewhere: deque[FoundSeries] = deque()
        self._stopped: set[str] = set()

    def run(self, series: Iterable[FoundSeries]) -> Tally:
        """Bring every series to an end; returns when none is left, also none that another process has begun.

        Args:
            series: of the archive; taken one by one as work is done.

        Raises:
            OutputError: the output cannot be written.
            BundleError: the bundle cannot be used.
            StuckError: a scan hangs, and the workers cannot be stopped.
        """
        self._tell("begun")
        jobs = self._jobs(noting_masks(series, self.model.masks))
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._running) < self.workers.capacity:
                    job = self._next(jobs)
                    exhausted = job is None
                    if job is not None:
                        self._submit(job)
                if exhausted and not (self._running or self._again or self._alone or self._elsewhere):
                    break
                self._collect()
                exhausted = exhausted and not (self._again or self._alone)
                if exhausted and self._elsewhere and not self._running:
                    jobs, exhausted = self._jobs(self._abandoned()), False
        finally:
            self._tell("ended")
        return self.tally

    def _next(self, jobs: Iterator[Job]) -> Job | None:
        """A new scan, else one to try again, else one to try alone."""
        job = next(jobs, None)
        if job is None and self._again:
            return self._again.popleft()
        if job is None and self._alone and not self._running:
            return self._alone.popleft()
        return job

    def _jobs(self, series: Iterator[FoundSeries]) -> Iterator[Job]:
        """Claim series; note those that are not wanted or are at work elsewhere."""
        for found in series:
            description = found.description if self.with_description else ""
            about: dict[str, Any] = {"n_slices": found.n_slices, "description": description}
            if found.reason:
                self.ledger.skip(found.name, found.reason, group=group_of_skipped(found.reason), **about)
                continue
            claim = self.ledger.claim(found.name, mask=found.mask, **about)
            if claim == "elsewhere":
                self._elsewhere.append(found)
            elif claim == "ours":
                entry = Entry(found.name, State.running, attempts=self.ledger.starts(found.name), **about)
                assert found.files is not None  # as there is no reason against it
                yield Job(entry, found.files, self.model, self.output, self.after, found.key)

    def _abandoned(self) -> Iterator[FoundSeries]:
        """Series that another process had: each is claimed again, which tells whether it has come to an end."""
        time.sleep(_AGAIN)
        found = list(self._elsewhere)
        self._elsewhere.clear()
        return iter(found)

    def _submit(self, job: Job) -> None:
        self._running[self.workers.submit(job)] = job
        self.tally.counts[State.running] = len(self._running)
        self._tell("started", job.entry)

    def _collect(self) -> None:
        """Wait for scans to end, and look after those that do not."""
        done, _ = wait(self._running, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in done:
            self._end(self._running.pop(future), future)
        for future, job in list(self._running.items()):
            since = self.workers.running_since(job.entry.name)
            allowed = _START_SECONDS + self.timeout * (job.entry.n_slices or _MANY_SLICES)
            if since is not None and time.monotonic() - since > allowed:
                del self._running[future]
                self._hung(job, allowed)
        self.tally.counts[State.running] = len(self._running)
        self._tell("tick")

    def _end(self, job: Job, future: Future[Outcome]) -> None:
        name = job.entry.name
        try:
            outcome = future.result()
        except WorkerDiedError:
            if name in self._stopped:  # shared its worker with a scan that hung
                self._stopped.discard(name)
                self._again.append(job)
                return
            times = self._tried.get(name, 0) + 1
            reason = f"the worker process died each of the {times} times that this scan was begun"
            self._record(job, Outcome(failed(job.entry, reason, "worker died")), again=self._alone)
        else:
            self._record(job, outcome, again=self._again)

    def _hung(self, job: Job, allowed: float) -> None:
        outcome = Outcome(failed(job.entry, f"did not end within {allowed:.0f} s", "timed out"))
        self._stopped.update(other.entry.name for other in self._running.values())
        try:
            self.workers.stop(job.entry.name)
        except StuckError:
            self.ledger.finish(outcome.entry)
            raise
        self._record(job, outcome, again=self._alone)

    def _record(self, job: Job, outcome: Outcome, *, again: deque[Job]) -> None:
        """Write the row, or put the scan aside to be tried again."""
        entry, name = outcome.entry, job.entry.name
        if outcome.trace and self.log is not None:
            self.log(name, outcome.trace)
        self._tried[name] = self._tried.get(name, 0) + 1
        if entry.state is State.failed and self._tried[name] < self.attempts:
            again.append(replace(job, entry=replace(job.entry, attempts=job.entry.attempts + 1)))
            self._tell("retried", entry)
            return
        del self._tried[name]
        self._stopped.discard(name)
        if self.ledger.finish(entry, outcome.provenance):
            self.tally.add(entry)
            self._tell("done", entry)

    def _tell(self, kind: Kind, entry: Entry | None = None) -> None:
        for listener in self.listeners:
            with suppress(OSError):  # a full disk must not end the screening through its log
                listener(kind, self.tally, entry)
