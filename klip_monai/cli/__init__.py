"""The command line: parses, composes and prints. Exit codes: 0 done, 1 a fault of ours, 2 bad input."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated

import typer
from rich.markup import escape

from klip_monai import __version__
from klip_monai.cli import bench, inspect, score, screening, studies, training, viewing  # noqa: F401  each adds commands
from klip_monai.cli.options import app, err, out
from klip_monai.errors import known_error

__all__ = ["app", "main"]


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"klip-monai {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def _quiet() -> None:
    """Silence libraries: what the user needs to know is said by us."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)


def main() -> None:
    """Entry point of ``klip-monai``."""
    _quiet()
    try:
        app()
    except KeyboardInterrupt:
        err.print("interrupted; no result was written")
        sys.exit(130)
    except SystemExit as ended:  # Typer makes one of an interruption, after a blank line
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            err.print("interrupted; no result was written")
        raise
    except Exception as error:
        known = known_error(error)
        if known is None:
            err.print(
                f"[red]internal error[/red] {type(error).__name__}: {escape(str(error))}",
                soft_wrap=True,
                highlight=False,
            )
            sys.exit(1)
        err.print(f"[red]error[/red] {escape(str(known))}", soft_wrap=True, highlight=False)
        sys.exit(2)
