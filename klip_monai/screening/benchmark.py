"""`klip-monai screen` on a simulated archive, against a loop of `klip-monai score`.

`python -m klip_monai.screening.benchmark --output DIR` makes an archive of phantoms, a tenth of them with a lesion, and
of broken scans, and gives throughput, the share of reading, scoring and writing, whether lesions rank first (AUROC),
whether each broken scan was refused for its own fault, and how memory grows from scan to scan.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from klip_monai.evaluation.metrics import auroc
from klip_monai.phantom import random_scan
from klip_monai.screening.discovery import ArchiveIndex
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.ledger import FILE_NAME, Ledger
from klip_monai.screening.session import INDEX

SEED = 820_000
"""First patient; patients from here on are used nowhere else."""

_Values = NDArray[np.int16]


@dataclass(frozen=True)
class Fault:
    """A way to break a scan: what it does to the file written to ``path``, and words of the right reason."""

    name: str
    words: tuple[str, ...]
    write: Callable[[Path, _Values, NDArray[np.float64]], None]


def simulate(folder: Path, *, series: int, lesions: float = 0.1, broken: float = 0.05, slices: int = 10) -> None:
    """Write an archive of NIfTI scans, and what they are as `truth.json` beside it.

    Args:
        folder: of the archive.
        series: number of scans.
        lesions: share with a lesion.
        broken: share that cannot be scored, by each fault in turn.
        slices: of each scan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    kinds = np.full(series, "healthy", dtype=object)
    order = rng.permutation(series)
    n_broken, n_lesions = round(broken * series), round(lesions * series)
    kinds[order[n_broken : n_broken + n_lesions]] = "lesion"
    for number, index in enumerate(order[:n_broken]):
        kinds[index] = FAULTS[number % len(FAULTS)].name
    faults = {fault.name: fault for fault in FAULTS}
    for number, kind in enumerate(kinds):
        # As in the phantom study: lesions that are wide enough to lie in a slice.
        scan = random_scan(SEED + number, slices=slices, lesion=kind == "lesion", radius_mm=(10.0, 25.0))
        values = np.clip(np.round(scan.image[0].numpy()), -1024, 3071).astype(np.int16)
        affine = np.asarray(scan.image.affine, dtype=np.float64)
        write = faults[kind].write if kind in faults else _write
        write(folder / f"scan_{number:05d}.nii.gz", values, affine)
    (folder.parent / "truth.json").write_text(json.dumps({f"scan_{n:05d}": kind for n, kind in enumerate(kinds)}))


def run_screen(archive: Path, output: Path, *options: str) -> dict[str, Any]:
    """Screen in a process of its own, and follow its memory.

    Returns:
        Seconds and CPU seconds of the whole command, its exit code, and memory in MB (resident set) each time a tenth
        of the scans is done: ``memory_mb``, and the growth by straight line, MB a scan, over the last three quarters.
    """
    log = output.parent / f"{output.name}.jsonl"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "klip_monai.cli", "screen", str(archive), "-o", str(output), *options]
    start, cpu = time.perf_counter(), _cpu_seconds()
    process = subprocess.Popen([*command, "--json-logs", str(log)])
    memory: list[tuple[int, float]] = []
    while process.poll() is None:
        time.sleep(0.5)
        done = log.read_text().count('"event": "done"') if log.is_file() else 0
        resident = _resident_mb(process.pid)
        if resident is not None and (not memory or memory[-1][0] < done):
            memory.append((done, resident))
    tail = memory[len(memory) // 4 :]
    slope = float(np.polyfit([n for n, _ in tail], [mb for _, mb in tail], 1)[0]) if len(tail) > 2 else None
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": _cpu_seconds() - cpu,
        "exit_code": process.returncode,
        "memory_mb": memory[:: max(1, len(memory) // 10)],
        "memory_mb_per_scan": slope,
    }


def run_loop(archive: Path, output: Path, *options: str, scans: int) -> tuple[float, float]:
    """Seconds and CPU seconds a scan of a loop of `klip-monai score` over the first scans; refused ones count, too."""
    paths = sorted(archive.glob("*.nii.gz"))[:scans]
    start, cpu = time.perf_counter(), _cpu_seconds()
    for path in paths:
        command = [sys.executable, "-m", "klip_monai.cli", "score", str(path), "-o", str(output), *options]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - start) / len(paths), (_cpu_seconds() - cpu) / len(paths)


def judge(archive: Path, output: Path) -> dict[str, Any]:
    """Compare what a screening found with the truth of a simulated archive."""
    truth = json.loads((archive.parent / "truth.json").read_text())
    with ArchiveIndex(output / INDEX) as index:
        names = {found.name: str(found.files).rpartition("/")[2].removesuffix(".nii.gz") for found in index.series()}
    with Ledger(output / FILE_NAME) as ledger:
        entries = {names[entry.name]: entry for entry in ledger.entries()}
    scored = {scan: entry for scan, entry in entries.items() if entry.state is State.scored}
    phases = ("read", "score", "write")
    faults = {fault.name: fault for fault in FAULTS}
    broken = {scan: kind for scan, kind in truth.items() if kind in faults}
    right = [scan for scan, kind in broken.items() if _is_right(entries.get(scan), faults[kind])]
    return {
        "states": {state.value: sum(entry.state is state for entry in entries.values()) for state in State},
        "auroc": auroc(
            [float(entry.scan_score or 0) for entry in scored.values()], [truth[scan] == "lesion" for scan in scored]
        ),
        "seconds_a_scan": {
            phase: float(np.mean([getattr(entry, f"{phase}_seconds") for entry in scored.values()])) for phase in phases
        },
        "broken": len(broken),
        "refused_for_the_right_reason": len(right),
        "wrong": {scan: broken[scan] for scan in sorted(set(broken) - set(right))},
    }


def _is_right(entry: Entry | None, fault: Fault) -> bool:
    return entry is not None and entry.state is State.refused and any(word in entry.reason for word in fault.words)


def _write(path: Path, values: _Values, affine: NDArray[np.float64], **changes: Any) -> None:
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, changes.get("sform", 1))
    image.set_qform(affine, 0)  # its quaternion in float32 may be 0.0004 off: at these poses 0.3 mm at the edge
    image.header.set_xyzt_units(changes.get("unit", "mm"))
    nib.save(image, path)


def _cut(path: Path, values: _Values, affine: NDArray[np.float64]) -> None:
    _write(path, values, affine)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _windowed(path: Path, values: _Values, affine: NDArray[np.float64]) -> None:
    _write(path, np.clip((values + 160) * 255 / 400, 0, 255).astype(np.int16), affine)


def _placeless(path: Path, values: _Values, affine: NDArray[np.float64]) -> None:
    _write(path, values, affine, sform=0)


def _sliver(path: Path, values: _Values, affine: NDArray[np.float64]) -> None:
    _write(path, values[:, :2], affine)


def _in_metres(path: Path, values: _Values, affine: NDArray[np.float64]) -> None:
    _write(path, values, affine, unit="meter")


def _empty(path: Path, values: _Values, affine: NDArray[np.float64]) -> None:
    _write(path, np.full_like(values, -1000), affine)


FAULTS = (
    Fault("cut off", ("cut off",), _cut),
    Fault("windowed", ("not HU",), _windowed),
    Fault("no place", ("qform code 0",), _placeless),
    Fault("sliver", ("voxels along",), _sliver),
    Fault("metres", ("expected mm",), _in_metres),
    Fault("empty", ("not HU", "body"), _empty),
)


def _cpu_seconds() -> float:
    """CPU time of all processes that we started and that have ended, s: a fair measure on a machine that others use."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident_mb(pid: int) -> float | None:
    """Resident memory of a process, MB; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), None)


def main() -> None:
    """Command line; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--bundle", default="klip_ct_phantom")
    parser.add_argument("--loop", type=int, default=20, help="scans of the loop of `score`; 0 leaves it out")
    args, options = parser.parse_known_args()  # the rest goes to `klip-monai screen`
    archive, output = args.output / "archive", args.output / "screened"
    if not archive.is_dir():
        simulate(archive, series=args.series, slices=args.slices)
    result = run_screen(archive, output, "--bundle", args.bundle, *options) | judge(archive, output)
    result["scans_a_minute"] = 60 * args.series / result["seconds"]
    if args.loop:
        given = ("--bundle", args.bundle, "--outputs", "seg-nrrd")
        seconds, cpu = run_loop(archive, args.output / "loop", *given, scans=args.loop)
        result |= {"loop_seconds_a_scan": seconds, "loop_cpu_seconds_a_scan": cpu}
        result["times_faster"] = seconds * args.series / result["seconds"]
        result["times_less_cpu"] = cpu * args.series / result["cpu_seconds"]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
