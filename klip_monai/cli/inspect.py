"""What can be scored: `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from klip_monai.cli.options import Repair, RepairOption, app, err, out

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
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("series", "", "description", "slices", "mm", "orientation", "kernel", "contrast", "verdict"):
        table.add_column(title, overflow="fold")
    for info in index.series:
        mm = " x ".join("?" if value is None else f"{value:.3g}" for value in info.spacing_mm)
        words = (info.description, str(info.n_slices), mm, info.orientation, info.kernel, info.contrast)
        colour, reason = _COLOURS[info.verdict], f": {info.reason}" if info.reason else ""
        verdict = f"[{colour}]{info.verdict}[/{colour}]{escape(reason)}"
        table.add_row(info.name, escape(info.modality), *map(escape, words), verdict)
    out.print(table)
    left = dict(index.passed_over) | ({DAMAGED: index.damaged} if index.damaged else {})
    if left:
        out.print("passed over: " + escape(summed(left.items())), soft_wrap=True)
    if json is not None:
        from klip_monai.io.strict_json import write_json

        write_json(json, index.describe())
