"""What all baselines share: batches, noise of each slice's own, settings as a dictionary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch

from klip_monai.errors import InputError
from klip_monai.physics import LinearOperator
from klip_monai.prior import Denoiser
from klip_monai.slice_generator import SliceGenerator

Level = Literal["pixel", "slice"]
"""What a method scores: each pixel or each whole slice."""

Score = Callable[[torch.Tensor, SliceGenerator], torch.Tensor]
State = TypeVar("State")

_NOT_SETTINGS = ("batch_size", "seed", "healthy")


@dataclass(frozen=True, kw_only=True)
class SliceMethod(ABC):
    """A :class:`klip_monai.evaluation.method.Method` that scores each slice by itself.

    The noise of a slice follows from the seed and the slice's place in the call, so a result depends on neither the
    batch size nor the other slices. Subclasses that are fitted keep what they learnt in a field ``healthy``.

    Attributes:
        batch_size: slices that pass the network together.
        seed: of all noise; the same seed, weights and device give the same result.
    """

    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size: got {self.batch_size}, expected at least 1")

    @property
    @abstractmethod
    def passes(self) -> int:
        """NFE: network passes a slice; a backward pass counts as two more."""

    def __call__(self, images: torch.Tensor, network: Denoiser, /) -> torch.Tensor:
        """Score standard slices (B, 1, H, W) in [-1, 1]: float32 maps (B, 1, H, W) or, of whole slices, (B,)."""
        return self._in_batches(images, lambda batch, generator: self._score(batch, network, generator))

    def describe(self) -> dict[str, Any]:
        """All settings that a score depends on, JSON-able; the seed and the batch size are not among them."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_SETTINGS}
        settings = {k: v.describe() if isinstance(v, LinearOperator) else v for k, v in values.items()}
        return {"method": type(self).__name__} | settings

    @abstractmethod
    def _score(self, images: torch.Tensor, network: Denoiser, generator: SliceGenerator) -> torch.Tensor:
        """Score one batch, float32 (B, 1, H, W)."""

    def _in_batches(self, images: torch.Tensor, score: Score) -> torch.Tensor:
        """Results of ``score`` for batches of ``images``, (B, 1, H, W), one after the other."""
        slices = plain(images)
        edges = [*range(0, len(slices), self.batch_size), len(slices)]
        with torch.no_grad():
            scores = [score(slices[lo:hi], SliceGenerator(self.seed, range(lo, hi))) for lo, hi in pairwise(edges)]
            return torch.cat(scores)


def plain(images: torch.Tensor) -> torch.Tensor:
    """Slices as a float32 tensor without metadata."""
    return images.as_subclass(torch.Tensor).float()


def fitted(healthy: State | None, method: SliceMethod) -> State:
    """What a method learnt from healthy slices.

    Raises:
        InputError: if it has seen none.
    """
    if healthy is None:
        raise InputError(
            f"{type(method).__name__}: got slices to score before any healthy ones, expected the method that "
            "fit(images, body, network) returns"
        )
    return healthy


def check_healthy(images: torch.Tensor, *, least: int) -> None:
    """Refuse to learn from fewer than ``least`` healthy slices (B, 1, H, W)."""
    if len(images) < least:
        raise InputError(f"images: got {len(images)} healthy slices to fit, expected at least {least}; add slices")


def check_level(level: str) -> None:
    """Refuse a ``level`` that is neither "pixel" nor "slice"."""
    if level not in ("pixel", "slice"):
        raise InputError(f"level: got {level!r}, expected 'pixel' or 'slice'")
