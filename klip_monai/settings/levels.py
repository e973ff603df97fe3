"""How many noise levels, or which, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
