"""Runs a command and notes what it cost: `python -I launcher.py REPORT COMMAND...`, a program of its own.

Linux counts the memory of the process that started a command as the command's own until it runs, so a process that has
torch loaded cannot tell the peak memory of a smaller one. This program is small, and imports the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main(report: str, *command: str) -> int:
    """Run the command, and write CPU and wall time in s and the largest resident set in bytes as JSON."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    found = {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - start,
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    Path(report).write_text(json.dumps(found))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
