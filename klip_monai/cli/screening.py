"""Screening of archives: `screen`. Exit codes: as everywhere, and 3 if some series were refused or failed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from klip_monai.cli.options import (
    AngleOption,
    BundleOption,
    Device,
    DeviceOption,
    EstimatorOption,
    NullOption,
    OperatorOption,
    OperatorSettingOption,
    Precision,
    PrecisionOption,
    PresetOption,
    PushOption,
    RepairOption,
    RoiFolderOption,
    SeedOption,
    SharpOption,
    TwinsOption,
    ViewsOption,
    app,
    err,
    open_bundle,
    out,
    overrides_of,
    push_target,
    running_option,
    series_option,
    writing_option,
)
from klip_monai.errors import InputError

if TYPE_CHECKING:
    from klip_monai.screening.entry import Entry
    from klip_monai.screening.found import ArchiveCounts, FoundSeries, SeriesFilter
    from klip_monai.screening.plan import Plan
    from klip_monai.screening.scorer import Model
    from klip_monai.screening.session import Series
    from klip_monai.screening.tally import Kind, Listener, Tally

SOME_NOT_SCORED = 3


@app.command()
def screen(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; the same again goes on.")],
    archives: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARCHIVE...",
            help="Folders, zip or tar archives, and files; or a DICOMweb server: https://host/dicom-web.",
        ),
    ] = None,
    bundle: BundleOption = None,
    operator: OperatorOption = None,
    views: ViewsOption = None,
    angle_range: AngleOption = None,
    operator_option: OperatorSettingOption = None,
    estimator: EstimatorOption = None,
    twins: TwinsOption = None,
    sharp: SharpOption = None,
    null: NullOption = None,
    preset: PresetOption = None,
    outputs: Annotated[
        str,
        writing_option(
            metavar="NAMES",
            help="What to write for each scan, as in `score`; a preview always.",
        ),
    ] = "seg-nrrd",
    push: PushOption = None,
    repair: RepairOption = None,
    roi: RoiFolderOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    seed: SeedOption = 0,
    modality: Annotated[str, series_option(help="Only DICOM series of this modality.")] = "CT",
    body_part: Annotated[str | None, series_option(help="Only series with this BodyPartExamined.")] = None,
    min_slices: Annotated[int, series_option(min=1, help="Only series with at least so many slices.")] = 3,
    description: Annotated[
        str | None,
        series_option(metavar="REGEX", help="Only series whose SeriesDescription has this in it."),
    ] = None,
    since: Annotated[datetime | None, series_option(formats=["%Y-%m-%d"], help="Only series of this date on.")] = None,
    with_description: Annotated[
        bool,
        writing_option("--with-description", help="Keep SeriesDescription in the ledger and the report."),
    ] = False,
    workers: Annotated[int, running_option(min=0, help="Worker processes; 0 scores in this one.")] = 0,
    scheduler: Annotated[
        str | None,
        running_option(metavar="ADDRESS", help="Dask scheduler (tcp://HOST:PORT or its .json file)."),
    ] = None,
    batch_size: Annotated[
        int | None,
        running_option(
            min=1,
            help="Slices that pass a GPU's network together; a CPU settles it itself.  "
            "\\[default: as before, or what fits]",
        ),
    ] = None,
    timeout: Annotated[float, running_option(min=0.001, help="Seconds that a slice may take.")] = 60.0,
    attempts: Annotated[int, running_option(min=1, help="Starts of a scan before it counts as failed.")] = 2,
    rescore: Annotated[bool, running_option("--rescore", help="Do all again, with these settings.")] = False,
    retry: Annotated[bool, running_option("--retry", help="Do refused and failed series again.")] = False,
    dry_run: Annotated[bool, running_option("--dry-run", help="Show what would be done, and stop.")] = False,
    export_only: Annotated[
        bool, running_option("--export-only", help="Write tables and report anew, and stop.")
    ] = False,
    key_file: Annotated[
        Path | None,
        writing_option(help="Write which series each name stands for; private, so keep it elsewhere."),
    ] = None,
    json_logs: Annotated[
        str | None,
        writing_option(metavar="FILE", help="One JSON object a line for each event; - is standard error."),
    ] = None,
    debug_log: Annotated[
        Path | None,
        writing_option(help="Tracebacks of crashes; they may hold paths and tags, so keep it private."),
    ] = None,
) -> None:
    """Score the CT series of an archive; stopped or killed, the same command goes on where it was.

    Exit codes: 0 all scored or left out, 3 some refused or failed, 2 bad input, 1 a fault of ours, 130 interrupted.
    """
    if export_only:
        _export(output)
        return
    if not archives:
        raise InputError("screen: got no ARCHIVE, expected folders, zip or tar archives, files, or a server")
    if workers and scheduler:
        raise InputError("--workers, --scheduler: got both, expected one; a scheduler has workers of its own")
    overrides = overrides_of(
        operator, views, angle_range, operator_option, estimator, twins, device, sharp, preset, precision, null
    )
    repairs = tuple(sorted({kind.value for kind in repair or ()}))
    model = _model(bundle, overrides, seed=seed, outputs=outputs, roi=roi, repair=repairs)
    from klip_monai.screening import session
    from klip_monai.screening.masks import noting_masks
    from klip_monai.screening.pacs import Push

    after = None if push is None else Push(push_target(push, model.outputs))
    wanted = {"modality": modality, "body_part": body_part, "min_slices": min_slices, "description": description}
    with ExitStack() as stack:
        found = stack.enter_context(
            _archive(archives, output, key_file, since=since.date() if since else None, **wanted)
        )

        def series() -> Iterator[FoundSeries]:
            return noting_masks(found(), model.masks)

        if dry_run:
            _print_plan(session.plan_screening(series, output), workers=max(1, workers), device=device)
            return
        options = session.Options(
            workers=workers,
            scheduler=scheduler,
            batch_size=batch_size,
            timeout=timeout,
            attempts=attempts,
            with_description=with_description,
            after=after,
            rescore=rescore,
            retry=retry,
            log=_debug(stack, debug_log),
            listeners=[_json_log(stack, json_logs) if json_logs else stack.enter_context(_live())],
            announce=lambda text: err.print(escape(text)),
        )
        tally = _interruptible(lambda: session.screen(series, output, model, options), output)
    _print_tally(tally, output)
    raise typer.Exit(_exit_code(tally))


def _model(
    bundle: str | None, overrides: dict[str, Any], *, seed: int, outputs: str, roi: str | None, repair: tuple[str, ...]
) -> Model:
    """What to score with, checked before any work."""
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle
    from klip_monai.io.masks.roi import Roi
    from klip_monai.scan.output_files import file_names

    names = tuple(name.strip() for name in outputs.split(",") if name.strip())
    file_names("", names)
    info = find_bundle(bundle or DEFAULT_BUNDLE)
    masks = None if roi is None else Roi.parse_folder(roi)
    open_bundle(info, **overrides)
    from klip_monai.screening.scorer import Model

    asked = tuple(sorted(overrides.items()))
    return Model(info.root, asked, seed=seed, outputs=names, repair=repair, masks=masks)


@contextmanager
def _archive(archives: list[str], output: Path, key_file: Path | None, **wanted: Any) -> Iterator[Series]:
    """Bring the index of the archives up to date, or ask the server; gives their series."""
    from klip_monai.io.pacs.dicomweb import is_url
    from klip_monai.io.write.atomic import check_writable
    from klip_monai.screening.discovery import ArchiveIndex
    from klip_monai.screening.found import SeriesFilter
    from klip_monai.screening.key_file import write_key_file
    from klip_monai.screening.session import INDEX, one_at_a_time

    filters = SeriesFilter(**wanted)
    check_writable(output)
    if any(map(is_url, archives)):
        found = _in_pacs(archives, filters)
        if key_file is not None:
            write_key_file(key_file, found)
        yield lambda: found
        return
    with one_at_a_time(output / f".{INDEX}.lock"), ArchiveIndex(output / INDEX) as index:
        with err.status("looking through the archive") as status:
            index.update(
                map(Path, archives),
                progress=lambda files, series: status.update(f"{files} files, {series} series so far"),
            )
        _print_passed_over(index.counts())
        if key_file is not None:
            write_key_file(key_file, index.series(filters))
    with ArchiveIndex(output / INDEX) as index:
        yield lambda: index.series(filters)


def _print_passed_over(counts: ArchiveCounts) -> None:
    """Say what in the archive is no image, and what cannot be looked into."""
    from klip_monai.io.kinds import summed

    if left := {**counts.passed_over, **counts.damaged}:
        err.print(f"passed over: {escape(summed(sorted(left.items())))}", soft_wrap=True)


def _in_pacs(addresses: list[str], filters: SeriesFilter) -> list[FoundSeries]:
    """The series of the one server that is screened."""
    from klip_monai.io.pacs.dicomweb import Pacs
    from klip_monai.io.pacs.scratch import sweep
    from klip_monai.screening.pacs import series_in_pacs

    if len(addresses) > 1:
        raise InputError(
            f"screen: got {len(addresses)} ARCHIVEs with a server among them, expected the server alone; screen each "
            "into its own --output"
        )
    pacs = Pacs(addresses[0])
    pacs.check()
    sweep()  # copies that an earlier run left when it was killed
    with err.status("asking the server for its series"):
        return series_in_pacs(pacs, filters)


@contextmanager
def _live() -> Iterator[Listener]:
    """Progress on standard error."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[speed]}"), console=err, transient=True) as bar:
        task = bar.add_task("starting", total=None, speed="")

        def show(kind: Kind, tally: Tally, entry: Entry | None = None) -> None:
            counts = ", ".join(f"{n} {state.value}" for state, n in sorted(tally.counts.items()) if n)
            speed = "" if not tally.rate else f"{60 * tally.rate:.3g} a minute, {_duration(tally.seconds_left)} left"
            done = tally.total - tally.left
            bar.update(task, completed=done, total=tally.total, description=counts or "starting", speed=speed)

        yield show


def _json_log(stack: ExitStack, where: str) -> Listener:
    from klip_monai.screening.listeners import JsonLog

    if where == "-":
        return JsonLog(sys.stderr.write)
    return JsonLog(stack.enter_context(open(where, "a", buffering=1, encoding="utf-8")).write)


def _debug(stack: ExitStack, path: Path | None) -> Callable[[str, str], None] | None:
    if path is None:
        return None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    file = stack.enter_context(os.fdopen(descriptor, "a", buffering=1, encoding="utf-8"))
    return lambda name, trace: print(f"{datetime.now().isoformat()} {name}\n{trace}", file=file)


def _interruptible(run: Callable[[], Tally], output: Path) -> Tally:
    """Run; an interruption, also by SIGTERM as clusters send it, leaves everything ready to go on."""
    from klip_monai.screening.workers import StuckError

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        return run()
    except KeyboardInterrupt:
        err.print(f"interrupted; what is scored stays in {escape(str(output))}. Give the same command again to go on")
        raise typer.Exit(130) from None
    except StuckError as error:
        err.print(f"[red]error[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.stderr.flush()
        os._exit(2)  # a thread that hangs would be waited for
    finally:
        signal.signal(signal.SIGTERM, before)


def _export(output: Path) -> None:
    from klip_monai.screening.ledger import FILE_NAME, Ledger
    from klip_monai.screening.results import write_results

    if not (output / FILE_NAME).is_file():
        raise InputError(f"--output: got {output} without {FILE_NAME}, expected the folder of a screening")
    with Ledger(output / FILE_NAME) as ledger:
        for path in write_results(ledger, output):
            out.print(escape(str(path)))


def _print_plan(plan: Plan, *, workers: int, device: Device) -> None:
    import torch

    kind = "cuda" if device is not Device.cpu and torch.cuda.is_available() else "cpu"
    table = Table.grid(padding=(0, 2))
    table.add_row("to score", f"{plan.series} series, {plan.slices} slices")
    for state, n in sorted(plan.done.items()):
        table.add_row(f"{state.value} before" if state != "running" else "running elsewhere", str(n))
    for group, n in plan.skipped.most_common():
        table.add_row("left out", f"{n} ({escape(group)})")
    basis = "as measured here" if plan.slice_seconds else f"a rough guess for {kind}"
    table.add_row("time", f"{_duration(plan.seconds(device=kind, workers=workers))}, {basis}")
    out.print(table)


def _print_tally(tally: Tally, output: Path) -> None:
    counts = ", ".join(f"{n} {state.value}" for state, n in sorted(tally.counts.items()) if n)
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in tally.seconds.items())
    out.print(f"{tally.total} series: {counts or 'nothing to do'}")
    if phases:
        out.print(f"{tally.handled} in {_duration(tally.elapsed)}; {phases}")
    out.print(escape(str(output / "ledger.csv")))


def _exit_code(tally: Tally) -> int:
    from klip_monai.screening.entry import State

    return SOME_NOT_SCORED if tally.counts[State.refused] + tally.counts[State.failed] else 0


def _duration(seconds: float | None) -> str:
    """As "2 h 05 min"."""
    if seconds is None:
        return "?"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
