"""How many noise levels, or which, by what they are for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

WindowLevels = int | Sequence[float]
"""Intervals of a window: how many, evenly spaced in ln(sigma), or the noise levels between them, descending."""


@dataclass(frozen=True)
class Levels:
    """Noise levels by what they are for: fewer do where no posterior sample is drawn.

    Attributes:
        alone: where the measurement leaves nothing open, as the identity does, and the slice itself is the sample.
        of_samples: where posterior samples are drawn.
        of_paths: where the estimator runs along the sampler's own path, or twins are made; None: as ``of_samples``.
    """

    alone: WindowLevels
    of_samples: WindowLevels
    of_paths: WindowLevels | None = None


def levels_of(given: Any) -> Any:
    """:class:`Levels` from a mapping, as a configuration has them; all else as it is."""
    if not isinstance(given, Mapping):
        return given
    names = [one.name for one in fields(Levels)]
    if not {"alone", "of_samples"} <= given.keys() <= set(names):
        raise ValueError(f"levels: got {dict(given)}, expected numbers for {', '.join(names)}")
    return Levels(**given)


def levels_for(purpose: str, given: Any) -> WindowLevels:
    """What levels come to for a purpose, the name of an attribute of :class:`Levels`."""
    if not isinstance(given, Levels):
        settled: WindowLevels = given
        return settled
    chosen = getattr(given, purpose)
    return given.of_samples if chosen is None else chosen


_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "true or false"),
}


def check_kinds(settings: Any) -> None:
    """Refuse what is no number where one is expected, and the like: a configuration may hold anything.

    Args:
        settings: a dataclass; its fields of kind int, float and bool are looked at.

    Raises:
        ValueError: for the first of them.
    """
    for one in fields(settings):
        name, optional = str(one.type).partition(" | None")[:2]
        value: Any = getattr(settings, one.name)
        if name not in _KINDS or (optional and value is None):
            continue
        kind, called = _KINDS[name]
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits or not math.isfinite(value):
            raise ValueError(f"{one.name}: got {value!r}, expected {called}")


def at_least(least: int, **named: float) -> None:
    """Refuse values that are too small.

    Raises:
        ValueError: for the first of them.
    """
    for name, value in named.items():
        if value < least:
            raise ValueError(f"{name}: got {value}, expected {least} or more")
