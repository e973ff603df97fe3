"""What measures each section, see :data:`klip_monai.benchmarks.NAMES`."""

from __future__ import annotations

from collections.abc import Callable

from klip_monai.benchmarks import crop, end_to_end, levels, operators, precision, stages
from klip_monai.benchmarks.cost import Row
from klip_monai.benchmarks.subject import Subject

SECTIONS: dict[str, Callable[[Subject], list[Row]]] = {
    "precision": precision.measure,
    "levels": levels.measure,
    "crop": crop.measure,
    "stages": stages.measure,
    "operators": operators.measure,
    "end-to-end": end_to_end.measure,
}
"""From a subject to rows of one table, by name."""
