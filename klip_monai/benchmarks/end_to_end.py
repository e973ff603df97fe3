"""`klip-monai score` of a whole series, and the same with another release, in turn."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

from klip_monai.benchmarks.cost import Cost, Row
from klip_monai.benchmarks.processes import THIS, Release, run_python
from klip_monai.benchmarks.subject import Subject
from klip_monai.bundle import shipped_bundles


@dataclass(frozen=True)
class Scored:
    """What scoring a series cost: ``cost``, ``peak_bytes`` (resident set), and ``parts``, s of wall time by name."""

    cost: Cost
    peak_bytes: int
    parts: dict[str, float]


def measure(subject: Subject) -> list[Row]:
    """A row for this release, and one for the other if there is one; the least of ``subject.repeats`` runs each."""
    releases = [THIS, *([subject.against] if subject.against else [])]
    runs: list[list[Scored]] = [[] for _ in releases]
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = subject.path.absolute() if subject.path else subject.series.write(folder / "series.nii.gz")
        for number in range(subject.repeats):
            for place, release in enumerate(releases):
                output = folder / f"{number}_{place}"
                runs[place].append(score(path, output, release=release, subject=subject))
                shutil.rmtree(output)
    this, *others = (reduce(_least, found) for found in runs)
    name = f"this release, {THIS.version}"
    if not others:
        return [_row(name, this)]
    ratio = this.cost.cpu_s / others[0].cost.cpu_s
    return [_row(name, this, cpu_ratio=ratio), _row(f"the other, {releases[1].version}", others[0])]


def score(path: Path, output: Path, *, release: Release, subject: Subject) -> Scored:
    """Score a series in a process of its own.

    Args:
        path: the series.
        output: folder for the overlays.
        release: with which klip_monai.
        subject: bundle, device and threads. Of a bundle that is shipped each release takes its own.
    """
    info = subject.bundle
    shipped = info.root in [each.root for each in shipped_bundles()]
    arguments = ["-m", "klip_monai.cli", "score", str(path), "--output", str(output)]
    arguments += ["--bundle", info.name if shipped else str(info.root), "--device", subject.device.type]
    done = run_python(release, arguments, threads=subject.threads)
    (summary,) = (json.loads(file.read_text()) for file in output.glob("*_summary.json"))
    return Scored(done.cost, done.peak_bytes, summary.get("timings_s", {}))


def _least(one: Scored, other: Scored) -> Scored:
    parts = min(one, other, key=lambda scored: scored.cost.wall_s).parts
    return Scored(one.cost.least(other.cost), min(one.peak_bytes, other.peak_bytes), parts)


def _row(what: str, scored: Scored, **ratios: float) -> Row:
    peak_gb = scored.peak_bytes / 1e9
    remarks = [f"CPU {ratio:.2f} of the other's" for ratio in ratios.values()]
    remarks += [f"{peak_gb:.2f} GB", *(f"{part} {wall:.1f} s" for part, wall in scored.parts.items())]
    figures = {"peak_gb": peak_gb, **{f"{part}_s": wall for part, wall in scored.parts.items()}, **ratios}
    return Row(what, scored.cost, "run", ", ".join(remarks), figures)
