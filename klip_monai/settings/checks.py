"""What settings refuse, each by the setting's name."""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

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
