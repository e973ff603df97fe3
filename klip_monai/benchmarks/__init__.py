"""What this software costs on a machine: `klip-monai bench`.

A section is a function from a :class:`Subject` to rows of one table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from klip_monai.benchmarks import crop, end_to_end, levels, operators, precision, stages
from klip_monai.benchmarks.machine import Machine, devices_of, this_machine
from klip_monai.benchmarks.processes import Release, release_at
from klip_monai.benchmarks.series import Series
from klip_monai.benchmarks.subject import Subject
from klip_monai.benchmarks.timing import Cost, Row, torch_threads
from klip_monai.errors import InputError

SECTIONS: dict[str, Callable[[Subject], list[Row]]] = {
    "precision": precision.measure,
    "levels": levels.measure,
    "crop": crop.measure,
    "stages": stages.measure,
    "operators": operators.measure,
    "end-to-end": end_to_end.measure,
}
"""What can be measured, by name."""

QUICK = ("precision", "levels", "crop", "stages")
"""What is measured unless something else is asked for."""


def sections_of(names: Sequence[str]) -> list[str]:
    """Sections by name, each once and in their order; none are the quick ones, "all" is all.

    Raises:
        InputError: for a name that is none.
    """
    unknown = [name for name in names if name not in (*SECTIONS, "all")]
    if unknown:
        raise InputError(f"section: got {', '.join(unknown)}, expected some of {', '.join(SECTIONS)}, or all")
    chosen = SECTIONS if "all" in names else names or QUICK
    return [name for name in SECTIONS if name in chosen]


__all__ = [
    "QUICK",
    "SECTIONS",
    "Cost",
    "Machine",
    "Release",
    "Row",
    "Series",
    "Subject",
    "devices_of",
    "release_at",
    "sections_of",
    "this_machine",
    "torch_threads",
]
