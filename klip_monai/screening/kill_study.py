"""Does a screening survive anything? `python -m klip_monai.screening.kill_study ARCHIVE --output DIR --kills 20`.

Screens an archive undisturbed, then once more while processes are killed at random (SIGKILL, which nothing can catch),
and compares what is left: ledger and files have to be the same but for times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from klip_monai.screening.ledger import FILE_NAME, Ledger

OF_THE_RUN = ("read_seconds", "score_seconds", "write_seconds", "attempts", "worker", "updated")
"""What may differ between two screenings of the same archive."""

_POLL = 0.02


def contents(output: Path) -> dict[str, Any]:
    """What a screening left, without what may differ: its entries by name, and the hash of each file of its cases."""
    with Ledger(output / FILE_NAME) as ledger:
        entries = {entry.name: asdict(entry) for entry in ledger.entries()}
    found: dict[str, Any] = {
        name: {key: value for key, value in entry.items() if key not in OF_THE_RUN} for name, entry in entries.items()
    }
    for path in sorted((output / "cases").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name.endswith("_summary.json"):
                summary = json.loads(data)
                del summary["timings_s"]
                data = json.dumps(summary, sort_keys=True).encode()
            elif path.suffix == ".nrrd":
                header, _, voxels = data.partition(b"\n\n")  # a comment in the header has the time
                lines = [line for line in header.split(b"\n") if not line.startswith(b"#")]
                data = b"\n".join([*lines, b"", voxels])
            found[str(path.relative_to(output))] = hashlib.sha256(data).hexdigest()
    return found


def screen_under_fire(
    command: Sequence[str], output: Path, *, kills: int, seed: int, within: float, whom: Sequence[str] = ("all",)
) -> dict[str, int]:
    """Run a screening to its end, however often it is killed.

    Args:
        command: the screening; given again after its process was killed.
        output: its folder.
        kills: how many, if the screening lasts.
        seed: of the moments and the victims.
        within: each kill comes up to so many seconds after a scan was begun.
        whom: "all" kills the process, with the threads that score; "worker" one of its worker processes.

    Returns:
        Number of kills by kind.
    """
    rng, killed = random.Random(seed), dict.fromkeys(whom, 0)
    process = _start(command)
    while sum(killed.values()) < kills and begins(process, output):
        time.sleep(rng.uniform(0, within))
        kind = rng.choice(list(whom))
        victims = sorted(workers_of(process.pid)) if kind == "worker" else [process.pid]
        if process.poll() is not None or not victims:
            continue
        os.kill(rng.choice(victims), signal.SIGKILL)
        killed[kind] += 1
        if kind == "all":
            process.wait()
            process = _start(command)
        else:
            time.sleep(rng.uniform(0, within))
    process.wait()
    return killed


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begins(process: subprocess.Popen[bytes], output: Path) -> bool:
    """Wait until a process works on a scan; False if it ends without."""
    while process.poll() is None:
        if (output / FILE_NAME).is_file():
            uri = f"file:{output / FILE_NAME}?mode=ro"
            try:
                with closing(sqlite3.connect(uri, uri=True, timeout=5)) as sql:
                    query = "SELECT COUNT(*) FROM series WHERE state = 'running' AND owner LIKE ?"
                    if sql.execute(query, (f"%|{process.pid}|%",)).fetchone()[0]:
                        return True
            except sqlite3.OperationalError:
                pass  # its tables are not there yet
        time.sleep(_POLL)
    return False


def workers_of(pid: int) -> Iterator[int]:
    """Worker processes below a process."""
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listing.read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="two folders are made in it")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0, help="of the disturbed run; 0 has no worker processes")
    parser.add_argument("--within", type=float, default=10.0, help="s")
    parser.add_argument("--seed", type=int, default=0)
    args, options = parser.parse_known_args()  # the rest goes to `klip-monai screen`
    screen = [sys.executable, "-m", "klip_monai.cli", "screen", str(args.archive), *options, "--attempts", "1000"]
    calm, fire = args.output / "undisturbed", args.output / "killed"
    subprocess.run([*screen, "--output", str(calm)], check=False)
    killed = screen_under_fire(
        [*screen, "--output", str(fire), "--workers", str(args.workers)],
        fire,
        kills=args.kills,
        seed=args.seed,
        within=args.within,
        whom=("all", "worker") if args.workers else ("all",),
    )
    wanted, got = contents(calm), contents(fire)
    different = sorted(name for name in {*wanted, *got} if wanted.get(name) != got.get(name))
    print(f"kills {killed}; {len(wanted)} rows and files, {len(different)} of them different", *different, sep="\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
