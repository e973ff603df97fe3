"""What this software costs on a machine: `klip-monai bench`.

A section is a function from a :class:`Subject <klip_monai.benchmarks.subject.Subject>` to rows of one table, see
:mod:`klip_monai.benchmarks.sections`. What is asked for is checked without any of them, and without PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

from klip_monai.errors import InputError

NAMES = ("precision", "levels", "crop", "stages", "operators", "end-to-end")
"""What can be measured."""

QUICK = ("precision", "levels", "crop", "stages")
"""What is measured unless something else is asked for."""


def sections_of(names: Sequence[str]) -> list[str]:
    """Sections by name, each once and in their order; none are the quick ones, "all" is all.

    Raises:
        InputError: for a name that is none.
    """
    unknown = [name for name in names if name not in (*NAMES, "all")]
    if unknown:
        raise InputError(f"section: got {', '.join(unknown)}, expected some of {', '.join(NAMES)}, or all")
    chosen = NAMES if "all" in names else names or QUICK
    return [name for name in NAMES if name in chosen]
