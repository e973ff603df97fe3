"""Whoever scores, and whatever befalls them, what is left is what an undisturbed run in this process leaves."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from screen_runs import screen, screen_command

from klip_monai.screening import engine, session, workers
from klip_monai.screening.discovery import ArchiveIndex
from klip_monai.screening.entry import State
from klip_monai.screening.kill_study import begins, contents, workers_of
from klip_monai.screening.ledger import FILE_NAME, Ledger
from klip_monai.screening.scorer import Model
from klip_monai.screening.session import INDEX, Options

pytest.importorskip("distributed")


def screen_with_a_worker(archive: Path, output: Path, bundle: Path, **options):
    """Screen with one worker process; the index of the archive is made first."""
    assert screen(archive, output, bundle, "--dry-run").exit_code == 0
    with ArchiveIndex(output / INDEX) as index:
        return session.screen(index.series, output, Model(bundle), Options(workers=1, **options))


def test_a_killed_process_and_a_killed_worker_leave_what_an_undisturbed_run_leaves(
    screened, archive, quick_bundle, tmp_path
):
    process = subprocess.Popen(screen_command(archive, tmp_path, quick_bundle), stdout=subprocess.DEVNULL)
    if begins(process, tmp_path):
        process.kill()
    process.wait(60)
    killed = []

    def kill_the_worker(kind, *_):
        """As soon as its first scan is done, so that it has begun others."""
        if kind == "done" and not killed:
            killed.extend(workers_of(os.getpid()))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    tally = screen_with_a_worker(archive, tmp_path, quick_bundle, listeners=[kill_the_worker])
    assert len(killed) == 1
    assert tally.counts[State.scored] == 5
    assert contents(tmp_path) == contents(screened)
    assert not list(tmp_path.rglob(".klip-staging*"))


def test_a_worker_process_has_its_libraries_frozen_as_the_command_has():
    with workers.local_cluster(1) as cluster:
        (frozen,) = cluster._client.run(gc.get_freeze_count).values()
    assert frozen > 100_000


@pytest.mark.parametrize("when", ["done", "started"])
def test_a_worker_that_hangs_is_started_anew_and_its_scans_get_another_try(
    screened, archive, quick_bundle, tmp_path, monkeypatch, when
):
    frozen = []

    def freeze_the_worker(kind, *_):
        """As soon as its first scan is done or handed over: after it has begun others mostly, or before any."""
        if kind == when and not frozen:
            frozen.extend(workers_of(os.getpid()))
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            monkeypatch.setattr(engine, "_START_SECONDS", 1.0)
        elif kind == "retried":
            monkeypatch.setattr(engine, "_START_SECONDS", 300.0)

    tally = screen_with_a_worker(archive, tmp_path, quick_bundle, timeout=0.1, listeners=[freeze_the_worker])
    assert len(frozen) == 1
    assert not Path(f"/proc/{frozen[0]}").exists()
    assert tally.counts[State.scored] == 5
    with Ledger(tmp_path / FILE_NAME) as ledger:
        assert sorted(entry.attempts for entry in ledger.entries())[-1] == 2
    assert contents(tmp_path) == contents(screened)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Path]:
    """Scheduler file of a Dask cluster that was started as the recipes say: a scheduler and two workers."""
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    where, preload = ["--scheduler-file", str(file), "--no-dashboard"], ["--preload", "klip_monai.cli.libraries"]
    env = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    commands = [
        [*dask, "scheduler", *where, "--host", "127.0.0.1", "--port", "0"],
        [*dask, "worker", *where, "--nworkers", "2", "--nthreads", "1", "--local-directory", str(tmp_path), *preload],
    ]
    processes = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            end = time.monotonic() + 60
            while not file.is_file() and time.monotonic() < end:
                time.sleep(0.1)
        yield file
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


def test_a_cluster_that_runs_already_gives_the_same(screened, archive, quick_bundle, tmp_path, cluster):
    output = tmp_path / "out"
    done = screen(archive, output, quick_bundle, "--scheduler", cluster)
    assert done.exit_code == 3, done.exception
    assert contents(output) == contents(screened)
    with Ledger(output / FILE_NAME) as ledger:
        assert "local" not in {entry.worker for entry in ledger.entries()}


def test_two_workers_give_the_same(screened, archive, quick_bundle, tmp_path):
    done = screen(archive, tmp_path, quick_bundle, "--workers", 2)
    assert done.exit_code == 3, done.exception
    assert contents(tmp_path) == contents(screened)
