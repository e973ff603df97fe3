"""Commands in processes of their own, and what they cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import klip_monai
from klip_monai.benchmarks import launcher
from klip_monai.benchmarks.cost import Cost
from klip_monai.errors import InputError

_ASK = "import klip_monai.cli; print(klip_monai.__version__)"
_PATIENCE_S = 300


@dataclass(frozen=True)
class Release:
    """A klip_monai that is installed: its ``version``, and the ``python`` that it is installed for."""

    version: str
    python: str


THIS = Release(klip_monai.__version__, sys.executable)
"""The release that this is."""


@dataclass(frozen=True)
class Finished:
    """A command that is done: its ``cost``, with all its processes, and ``peak_bytes``, its largest resident set."""

    cost: Cost
    peak_bytes: int


def run_python(release: Release, arguments: Sequence[str], *, threads: int | None = None) -> Finished:
    """Run Python with a release, in an empty folder, so that no source checkout in the present one takes part.

    Args:
        release: whose interpreter to run.
        arguments: of the interpreter; paths in them are absolute.
        threads: of torch in it; None leaves it to torch.

    Raises:
        InputError: if it fails, with the last line that it says.
    """
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, "-I", launcher.__file__, str(report), release.python, *arguments],
            cwd=folder,
            env=_environment(release, threads=threads),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise InputError(f"klip_monai {release.version} failed in a process of its own: {_last_line(done.stderr)}")
        found = json.loads(report.read_text())
    return Finished(Cost(found["cpu_s"], found["wall_s"]), found["peak_bytes"])


def release_at(python: Path) -> Release:
    """The klip_monai that is installed for an interpreter.

    Raises:
        InputError: if it is none, or has none.
    """
    release = Release("", str(python.absolute()))  # not resolved: the interpreter of an environment is a link
    with TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [release.python, "-c", _ASK],
                cwd=folder,
                env=_environment(release),
                capture_output=True,
                text=True,
                timeout=_PATIENCE_S,
            )
            version = _last_line(done.stdout) if done.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):
            version = ""
    if not version:
        raise InputError(
            f"--against: got {str(python)!r}, expected the Python interpreter of an environment that has klip_monai, "
            "such as other/bin/python"
        )
    return replace(release, version=version)


def _environment(release: Release, *, threads: int | None = None) -> dict[str, str]:
    """Of a child: PYTHONPATH leads it to this klip_monai, wherever that lies, and to no other than its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if release is THIS:
        here = str(Path(klip_monai.__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
