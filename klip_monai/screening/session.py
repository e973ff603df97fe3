"""A screening from the archive to the report: index, ledger, workers and results put together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from klip_monai.io.write.atomic import check_writable
from klip_monai.scan.output_files import file_names
from klip_monai.scan.save import not_written
from klip_monai.screening.engine import Screening
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.found import FoundSeries
from klip_monai.screening.ledger import FILE_NAME, Ledger
from klip_monai.screening.listeners import MetricsFile
from klip_monai.screening.plan import Plan, make_plan
from klip_monai.screening.reasons import NOT_NOW
from klip_monai.screening.results import REFERENCE, write_results
from klip_monai.screening.scorer import Model
from klip_monai.screening.tally import Listener, Tally
from klip_monai.screening.workers import Workers, dask_cluster, in_process, local_cluster

INDEX = "index.sqlite"
METRICS = "metrics.prom"
Series = Callable[[], Iterable[FoundSeries]]
"""Gives the series of an archive, sorted by name, each time anew."""


@dataclass(frozen=True)
class Options:
    """How a screening is run; nothing of it changes results, but that ``batch_size`` changes their rounding.

    Attributes:
        workers: processes of this machine; 0 scores in this one.
        scheduler: address of a Dask scheduler instead.
        batch_size: slices that pass the network together; None takes that of the ledger's last run, so that a scan
            that is done again comes out the same to the last bit, or else what fits the device.
        timeout: see :class:`klip_monai.screening.engine.Screening`.
        attempts: likewise.
        with_description: likewise.
        after: likewise.
        rescore: take new settings and do every series again.
        retry: do refused and failed series again.
        log: see :class:`klip_monai.screening.engine.Screening`.
        listeners: likewise.
        announce: is told what happens before the first series, in words.
    """

    workers: int = 0
    scheduler: str | None = None
    batch_size: int | None = None
    timeout: float = 60.0
    attempts: int = 2
    with_description: bool = False
    after: Callable[[Path, Entry], None] | None = None
    rescore: bool = False
    retry: bool = False
    log: Callable[[str, str], None] | None = None
    listeners: Sequence[Listener] = field(default=())
    announce: Callable[[str], None] = lambda _: None


def screen(series: Series, output: Path, model: Model, options: Options) -> Tally:
    """Score all series of an archive, or those that are left, and write tables and report.

    Args:
        series: of the archive.
        output: folder of the results; the same one again goes on where the last run stopped.
        model: what to score with.
        options: how.

    Returns:
        The counts at the end.

    Raises:
        InputError: the folder was begun with other settings, or no workers could be had.
        OutputError: the folder cannot be written to.
        BundleError: the bundle cannot be used.
        StuckError: a scan hangs in this process.
    """
    check_writable(output)
    with Ledger(output / FILE_NAME) as ledger:
        with _workers(options) as workers:
            if workers.dashboard:
                options.announce(f"Dask dashboard: {workers.dashboard}")
            model = _settle(ledger, workers, model, output, options)
            ledger.retry((State.failed,), groups=NOT_NOW)
            if lost := [entry.name for entry in ledger.entries() if _is_lost(entry, output, model.outputs)]:
                options.announce(f"{len(lost)} scored series lack some of their files; they are scored again")
                ledger.redo(lost)
            if options.retry:
                ledger.retry((State.refused, State.failed))
            plan = make_plan(series(), ledger)
            screening = Screening(
                ledger,
                workers,
                model,
                output,
                attempts=options.attempts,
                timeout=options.timeout,
                after=options.after,
                with_description=options.with_description,
                listeners=(*options.listeners, MetricsFile(output / METRICS)),
                log=options.log,
                tally=Tally(total=plan.total, counts=plan.counts()),
            )
            tally = screening.run(series())
        write_results(ledger, output)
        return tally


def _is_lost(entry: Entry, folder: Path, outputs: Sequence[str]) -> bool:
    """Whether a series that was scored lacks one of its files, or has an empty one."""
    if entry.state is not State.scored:
        return False
    written = [output for output in outputs if not_written(output) not in entry.remarks]
    files = (folder / entry.case_dir / name for name in file_names(entry.name, written).values())
    return any(not file.is_file() or file.stat().st_size == 0 for file in files)


def plan_screening(series: Series, output: Path) -> Plan:
    """What :func:`screen` would do now."""
    with TemporaryDirectory() as nowhere:
        begun = (output / FILE_NAME).is_file()
        with Ledger((output if begun else Path(nowhere)) / FILE_NAME) as ledger:
            return make_plan(series(), ledger)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process of this machine after the other pass, as when the archive is indexed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _workers(options: Options) -> AbstractContextManager[Workers]:
    if options.scheduler is not None:
        return dask_cluster(options.scheduler)
    return local_cluster(options.workers) if options.workers else in_process()


def _settle(ledger: Ledger, workers: Workers, model: Model, output: Path, options: Options) -> Model:
    """Bind the ledger to everything that changes results, and settle the batch size."""
    described = workers.describe(model)
    ledger.agree(described.settings, rescore=options.rescore)
    before = [name for name in ledger.precisions() if name != described.precision]
    if before and not options.rescore:
        options.announce(
            f"precision: got {described.precision} here, where earlier series were scored in {' and '.join(before)}; "
            f"heat maps differ by rounding (ledger.csv says which is which). --precision {before[0]} goes on as before"
        )
    batch_size = ledger.batch_size(options.batch_size, otherwise=described.batch_size)
    staged = output / f".{REFERENCE}.{os.getpid()}"
    described.reference.save(staged, scores_only=True)  # workers have the bundle's
    os.replace(staged, output / REFERENCE)
    return replace(model, batch_size=batch_size)
