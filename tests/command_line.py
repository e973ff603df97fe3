"""The command line in this process: same words, same exit code, without importing torch anew for each call."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from klip_monai.cli import main


def klip_monai(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `klip-monai` with these arguments; tests/acceptance starts it as a program of its own."""
    command = ["klip-monai", *map(str, args)]
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        warnings.catch_warnings(),
    ):
        patch.setattr(sys, "argv", command)
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            logging.disable(logging.NOTSET)
    return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())
