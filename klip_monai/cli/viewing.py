"""Looking at results: `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from klip_monai.cli.options import app


@app.command()
def view(
    case: Annotated[
        Path, typer.Argument(metavar="CASE", help="NAME.mrb, from --outputs scene; its NAME_summary.json or folder.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to serve at. Other machines can read the scan at any but this one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Show a result in the browser: slices, heat map and segments, drawn by 3D Slicer's core."""
    from klip_monai.viewer import find_scene
    from klip_monai.viewer import view as serve

    serve(find_scene(case), host=host, port=port, browser=browser)
