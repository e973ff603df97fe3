"""What scoring costs on this machine: `bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from klip_monai.cli.libraries import import_libraries
from klip_monai.cli.options import BundleOption, Device, DeviceOption, app, err, out, progress_bar, running_option
from klip_monai.errors import InputError

if TYPE_CHECKING:
    from klip_monai.benchmarks.cost import Row
    from klip_monai.benchmarks.machine import Machine

_END_TO_END = "end-to-end"
_SECTIONS_HELP = """\b
precision   the network, float32 or bfloat16
levels      a slice at each preset
crop        what leaving out the air saves
stages      all but the network
operators   projection matrix against ASTRA
end-to-end  `klip-monai score` of a series"""

_series_option = partial(typer.Option, rich_help_panel=_END_TO_END)


@app.command()
def bench(
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION", help=f"What to measure, or all:\n\n{_SECTIONS_HELP}\n\n\\[default: the first four]"
        ),
    ] = None,
    bundle: BundleOption = None,
    series: Annotated[
        Path | None, _series_option("--input", metavar="PATH", help="A series of your own to score.")
    ] = None,
    against: Annotated[
        Path | None,
        _series_option(metavar="PYTHON", help="Score with another release, too: the Python of its environment."),
    ] = None,
    side: Annotated[int, _series_option(min=32, help="Pixels along a side of a phantom series.")] = 512,
    slices: Annotated[int, _series_option(min=1, help="Its slices.")] = 300,
    slice_mm: Annotated[float, _series_option(min=0.1, help="Distance between them, mm.")] = 0.8,
    repeats: Annotated[int, running_option(min=1, help="Runs of what takes long; the least counts.")] = 1,
    threads: Annotated[int | None, running_option(min=1, help="Threads of torch.  \\[default: torch's]")] = None,
    device: DeviceOption = Device.auto,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures as JSON, too.")] = None,
) -> None:
    """Measure what scoring costs on this machine: CPU time, which other programs change little, and wall time."""
    from klip_monai.benchmarks import sections_of
    from klip_monai.benchmarks.processes import release_at
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle
    from klip_monai.io.write.atomic import check_writable

    chosen = sections_of(sections or [])
    for option, value in (("--input", series), ("--against", against)):
        if value is not None and _END_TO_END not in chosen:
            raise InputError(f"{option}: got it without the section {_END_TO_END}, expected both; add {_END_TO_END}")
    if series is not None and not series.exists():
        raise InputError(f"--input: {series} does not exist, expected a series; check the path")
    if json is not None:
        if json.is_dir():
            raise InputError(f"--json: got the folder {json}, expected a file")
        check_writable(json.parent)
        json.parent.mkdir(parents=True, exist_ok=True)
    info = find_bundle(bundle or DEFAULT_BUNDLE)
    other = None if against is None else release_at(against)
    import_libraries()
    from klip_monai.benchmarks.machine import devices_of, this_machine
    from klip_monai.benchmarks.sections import SECTIONS
    from klip_monai.benchmarks.series import Series
    from klip_monai.benchmarks.subject import Subject
    from klip_monai.benchmarks.timing import torch_threads
    from klip_monai.io.strict_json import write_json

    devices = devices_of(device.value)
    measured: list[tuple[str, str, list[Row]]] = []
    with torch_threads(threads), progress_bar() as bar:
        machine = this_machine()
        subjects = [
            Subject(
                info,
                each,
                tries=max(Subject.tries, repeats),
                repeats=repeats,
                series=Series(side=side, slices=slices, slice_mm=slice_mm),
                path=series,
                against=other,
                threads=threads,
            )
            for each in devices
        ]
        task = bar.add_task("", total=len(chosen) * len(subjects))
        for name in chosen:
            for subject in subjects:
                bar.update(task, description=f"{name}, {subject.device.type}")
                measured.append((name, subject.device.type, SECTIONS[name](subject)))
                bar.advance(task)
    out.print(_table(machine, f"{info.name} {info.version}", measured))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"section": name, "device": where, **asdict(row)} for name, where, found in measured for row in found]
        write_json(json, {"machine": asdict(machine), "bundle": f"{info.name} {info.version}", "rows": rows})
        err.print(escape(str(json)), soft_wrap=True)


def _table(machine: Machine, bundle: str, measured: Sequence[tuple[str, str, list[Row]]]) -> Table:
    """Rows of (section, device, rows) under a heading that says where they hold."""
    table = Table(title=_heading(machine, bundle), title_justify="left", title_style="", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 0, 0, 1), False  # fits 80 columns
    for title in ("", "CPU time", "wall time"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    table.add_column("per")
    table.add_column("")
    several = len({device for _, device, _ in measured}) > 1
    for name, device, rows in measured:
        table.add_row(f"[bold]{name}[/bold]{f' on {device}' if several else ''}")
        for row in rows:
            costs = (_duration(row.cost.cpu_s), _duration(row.cost.wall_s))
            table.add_row(f" {escape(row.what)}", *costs, row.per, escape(row.remark))
        table.add_section()
    return table


def _heading(machine: Machine, bundle: str) -> str:
    cpu = machine.cpu
    lines = [
        cpu.name,
        "flags unknown" if cpu.flags is None else " ".join(cpu.flags) or "none of the flags that matter",
        f"torch {machine.torch}, {machine.threads} thread{'s' if machine.threads > 1 else ''}",
        *([f"oneDNN limited to {machine.onednn_isa}"] if machine.onednn_isa else []),
        *([machine.gpu] if machine.gpu else []),
        f"klip_monai {machine.klip_monai}, {bundle}",
    ]
    return escape("\n".join(lines))


def _duration(seconds: float) -> str:
    """About three digits, in s or ms."""
    value, unit = (seconds, "s") if seconds >= 1 else (1e3 * seconds, "ms")
    decimals = next((places for places, least in enumerate((100, 10, 1)) if value >= least), 3)
    return f"{value:.{decimals}f} {unit}"
