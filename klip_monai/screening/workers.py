"""Who scores: threads of this process, or processes of a Dask cluster; either is an executor of :mod:`concurrent`."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from klip_monai.errors import InputError, KlipError
from klip_monai.screening.scorer import Description, Job, Model, Outcome, describe, score_one

if TYPE_CHECKING:
    from distributed import Client

_A_WORKER = 3  # scans: one is read, one scored, one written
_THREADS = 2  # of a Dask worker
_TOPIC = "klip-screen"
_PATIENCE = 120.0  # s
_SCHEDULER = {
    "distributed.scheduler.allowed-failures": 0,  # we count, and try again one at a time
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # scans are not Dask's to spill, so a pause would never end
    "distributed.deploy.lost-worker-timeout": "24h",  # else a worker that takes 15 s to start anew is given up
    "distributed.admin.large-graph-warning-threshold": "1 GB",
}


class StuckError(KlipError):
    """A scan that neither ends nor can be stopped."""


class WorkerDiedError(Exception):
    """The worker process that scored a scan is gone."""


class Workers(Protocol):
    """Where scans are scored."""

    @property
    def capacity(self) -> int:
        """Scans to hand over at a time, waiting ones included."""
        ...

    @property
    def dashboard(self) -> str:
        """Address of a web page that shows the workers; empty if there is none."""
        ...

    def describe(self, model: Model) -> Description:
        """See :func:`klip_monai.screening.scorer.describe`."""
        ...

    def submit(self, job: Job) -> Future[Outcome]:
        """Hand over a scan; the future may raise :class:`WorkerDiedError` besides what `score_one` raises."""
        ...

    def running_since(self, name: str) -> float | None:
        """When a scan was begun (monotonic clock, s); None while it waits."""
        ...

    def stop(self, name: str) -> None:
        """Stop what scores a scan, whatever it does; raises :class:`StuckError` where that is impossible."""
        ...


class InProcess:
    """Threads of this process around one scoring lock: reading and writing overlap scoring, nothing else does.

    Args:
        threads: scans in flight, and so in memory.
    """

    dashboard = ""

    def __init__(self, threads: int | None = None) -> None:
        self.capacity = threads or (_A_WORKER if torch.cuda.is_available() else 2)
        self._executor = ThreadPoolExecutor(self.capacity, thread_name_prefix="klip-screen")
        self._started: dict[str, float] = {}
        self._stop = threading.Event()

    def describe(self, model: Model) -> Description:
        """Open the model here."""
        return describe(model)

    def submit(self, job: Job) -> Future[Outcome]:
        """Hand a scan to a thread."""
        return self._executor.submit(self._run, job)

    def running_since(self, name: str) -> float | None:
        """When the thread took it."""
        return self._started.get(name)

    def stop(self, name: str) -> None:
        """Threads cannot be stopped."""
        raise StuckError(
            f"{name}: got no end of it within --timeout, and a thread cannot be stopped; the scan is recorded as "
            "failed. Give the same command again to go on, with --workers 1 to have such scans stopped"
        )

    def close(self) -> None:
        """Stop at the next batch of slices."""
        self._stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> Outcome:
        self._started[job.entry.name] = time.monotonic()
        try:
            return score_one(replace(job, entry=replace(job.entry, worker="local")), stop=self._stop)
        finally:
            self._started.pop(job.entry.name, None)


@contextmanager
def in_process(threads: int | None = None) -> Iterator[InProcess]:
    """Threads of this process, stopped at the end of the block."""
    workers = InProcess(threads)
    try:
        yield workers
    except StuckError:
        raise  # a thread that hangs cannot be waited for
    except BaseException:
        workers.close()
        raise
    else:
        workers.close()


@contextmanager
def local_cluster(processes: int) -> Iterator[DaskWorkers]:
    """Processes of this machine, each with a nanny that starts it anew when it dies.

    Raises:
        InputError: Dask is not installed.
    """
    dask, distributed = _dask()
    cores = torch.get_num_threads()  # which OMP_NUM_THREADS bounds; sums are rounded the same by as many threads
    settings = {
        **_SCHEDULER,
        "distributed.worker.preload": ["klip_monai.cli.libraries"],  # has `dask_setup`
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": max(1, cores // processes),
        "distributed.nanny.pre-spawn-environ.MKL_NUM_THREADS": max(1, cores // processes),
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=processes, threads_per_worker=_THREADS, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield DaskWorkers(client, threads=max(1, cores // processes), own=processes)


@contextmanager
def dask_cluster(address: str) -> Iterator[DaskWorkers]:
    """The workers of a Dask cluster that runs already, as on SLURM or Kubernetes; it may grow and shrink meanwhile.

    Args:
        address: of its scheduler, as in "tcp://10.0.0.1:8786", or a scheduler file (.json).

    Raises:
        InputError: nothing answers there, or Dask is not installed.
    """
    _, distributed = _dask()
    try:
        where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        client = distributed.Client(**where, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler: got {address!r}, where no Dask scheduler answers, expected one as tcp://HOST:PORT; start "
            "`dask scheduler` and `dask worker`"
        ) from error
    with client:
        yield DaskWorkers(client)


class DaskWorkers:
    """The workers of a Dask cluster.

    Args:
        client: of the cluster.
        threads: CPU threads of torch in each worker; None takes as many as Dask gives it.
        own: number of workers, if the cluster was started for this screening on this machine.
    """

    def __init__(self, client: Client, *, threads: int | None = None, own: int | None = None) -> None:
        self._client, self._threads, self._own = client, threads, own
        self._executor: Executor = client.get_executor(pure=False)
        self._started: dict[str, tuple[float, str]] = {}
        self._handed_over: dict[str, float] = {}
        self._number = 0
        client.subscribe_topic(_TOPIC, self._hear)
        self.dashboard = client.dashboard_link or ""

    @property
    def capacity(self) -> int:
        """As many scans as threads, so that none waits with a worker that may die; follows the cluster's size."""
        return max(1, sum(min(threads, _A_WORKER) for threads in self._client.nthreads().values()))

    def describe(self, model: Model) -> Description:
        """Open the model on one worker."""
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            raise InputError(
                f"--scheduler: got no worker within {_PATIENCE:.0f} s, expected one at least; start `dask worker`"
            ) from error
        described = self._client.submit(_describe_here, model, self._threads, self._own, pure=False)
        result: Description = described.result()
        return result

    def submit(self, job: Job) -> Future[Outcome]:
        """Hand a scan to the scheduler."""
        name = job.entry.name
        self._started.pop(name, None)
        self._handed_over[name] = time.monotonic()
        self._number += 1
        key = f"{name}-{os.getpid()}-{self._number}"
        inner = self._executor.submit(_score_here, job, self._threads, self._own, key=key)  # type: ignore[call-arg]

        def forget() -> None:
            self._started.pop(name, None)
            self._handed_over.pop(name, None)

        return _translated(inner, forget=forget)

    def running_since(self, name: str) -> float | None:
        """When a worker told that it begins.

        In a cluster of our own no scan waits, so one that no worker tells of, as it froze before, began when it was
        handed over.
        """
        if name in self._started:
            return self._started[name][0]
        return self._handed_over.get(name) if self._own else None

    def stop(self, name: str) -> None:
        """Start its worker anew, or all of ours where it is not known; without a nanny the worker is left to itself."""
        if name in self._started:
            addresses = [self._started[name][1]]
        else:
            addresses = list(self._client.nthreads()) if self._own else []
        with suppress(ValueError, AssertionError, TimeoutError, OSError):
            if addresses:
                self._client.restart_workers(addresses, timeout=60)

    def _hear(self, event: tuple[float, Any]) -> None:
        """A worker has begun a scan."""
        _, message = event
        if message.get("run") == os.getpid():
            self._started[message["name"]] = (time.monotonic(), message["worker"])


def _translated(inner: Future[Outcome], *, forget: Any) -> Future[Outcome]:
    """The same future, with Dask's errors told in our words."""
    outer: Future[Outcome] = Future()

    def pass_on(done: Future[Outcome]) -> None:
        forget()
        error = None if done.cancelled() else done.exception()
        if done.cancelled():
            outer.set_exception(WorkerDiedError())
        elif error is None:
            outer.set_result(done.result())
        else:
            outer.set_exception(WorkerDiedError() if type(error).__name__ == "KilledWorker" else error)

    inner.add_done_callback(pass_on)
    return outer


def _score_here(job: Job, threads: int | None, own: int | None) -> Outcome:
    """Score in a Dask worker, and tell the scheduler when that begins."""
    from distributed import get_worker

    worker = get_worker()
    run = int(str(worker.get_current_task()).split("-")[-2])
    worker.log_event(_TOPIC, {"run": run, "name": job.entry.name, "worker": worker.address})
    entry = replace(job.entry, worker=str(worker.name))
    return score_one(replace(job, entry=entry, model=_placed(job.model, threads, own)))


def _describe_here(model: Model, threads: int | None, own: int | None) -> Description:
    return describe(_placed(model, threads, own))


def _placed(model: Model, threads: int | None, own: int | None) -> Model:
    """A model on this worker's share of the machine; the workers that we started take turns on its GPUs."""
    from distributed import get_worker

    if own is not None:
        logging.disable(logging.WARNING)  # what the user needs to know is said by us
    worker, gpus = get_worker(), torch.cuda.device_count()
    model = replace(model, threads=threads or worker.state.nthreads)
    if own is None or not gpus or "device" in dict(model.overrides):
        return model
    return replace(model, device=f"cuda:{int(worker.name) % gpus}", share=1 / -(-own // gpus))


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise InputError(
            "--workers, --scheduler: got no Dask in this environment, expected it; pip install 'klip-monai[screen]'"
        ) from error
    return dask, distributed
