"""What can be scored: `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from klip_monai.cli.options import Repair, RepairOption, app, err, out

if TYPE_CHECKING:
    from klip_monai.io.index import SeriesInfo

_ALWAYS = ("series", "slices", "verdict")
_COLUMNS = ("series", "modality", "description", "slices", "mm", "orientation", "kernel", "contrast", "verdict")
_COLOURS = {"usable": "green", "usable after repair": "yellow", "refused": "red"}


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Folder, DICOMDIR, zip or tar, or a NIfTI, NRRD or MetaImage file.")],
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table as JSON, too.")] = None,
    repair: RepairOption = None,
) -> None:
    """List the series under a path and say which can be scored; shows no names or IDs of patients."""
    from klip_monai.io import index_series
    from klip_monai.io.kinds import DAMAGED, summed

    with err.status("reading"):
        index = index_series(path, fill_gaps=Repair.gaps in (repair or []))
    rows = [_row(info) for info in index.series]
    table = Table(box=None, header_style="bold", padding=(0, 1))
    shown = [title for title in _COLUMNS if title in _ALWAYS or any(row[title] for row in rows)]
    for title in shown:
        table.add_column(title, overflow="fold", no_wrap=title in _ALWAYS)
    for row in rows:
        table.add_row(*(row[title] for title in shown))
    out.print(table)
    for info in index.series:
        if info.reason:
            out.print(f"{info.name}: {info.verdict}: {escape(info.reason)}", soft_wrap=True, highlight=False)
    left = dict(index.passed_over) | ({DAMAGED: index.damaged} if index.damaged else {})
    if left:
        out.print("passed over: " + escape(summed(left.items())), soft_wrap=True)
    if json is not None:
        from klip_monai.io.strict_json import write_json

        write_json(json, index.describe())


def _row(info: SeriesInfo) -> dict[str, str]:
    """What the table shows of a series, by column; the reason of a refusal is a sentence of its own."""
    words = {name: escape(str(getattr(info, name, ""))) for name in _COLUMNS if name not in _ALWAYS}
    mm = " x ".join("?" if value is None else f"{value:.3g}" for value in info.spacing_mm)
    verdict = f"[{_COLOURS[info.verdict]}]{info.verdict}[/]"
    return words | {"series": info.name, "slices": str(info.n_slices), "mm": mm, "verdict": verdict}
