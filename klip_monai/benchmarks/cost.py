"""What is found: costs, and the rows of the table. Without PyTorch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """What something cost: ``cpu_s``, user and system time of all its threads, and ``wall_s``, both in seconds."""

    cpu_s: float
    wall_s: float

    def __truediv__(self, number: float) -> Cost:
        return Cost(self.cpu_s / number, self.wall_s / number)

    def least(self, other: Cost) -> Cost:
        """The lesser of each."""
        return Cost(min(self.cpu_s, other.cpu_s), min(self.wall_s, other.wall_s))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        cost: of one of ``per``.
        per: "pass" (a slice's pass of the network), "slice", "scan" or "run" (of a program).
        remark: what else there is to say.
        figures: other numbers, by name.
    """

    what: str
    cost: Cost
    per: str
    remark: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
