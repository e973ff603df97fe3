"""The one face of everything that is compared: KLIP itself and its rivals (:mod:`klip_monai.evaluation.baselines`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from klip_monai.prior import Denoiser

if TYPE_CHECKING:
    from typing_extensions import Self

    from klip_monai.evaluation.reading import Readings
    from klip_monai.scoring import ContextNull


@runtime_checkable
class Method(Protocol):
    """Anything that says where, or how much, slices are anomalous, given a prior.

    A method holds its settings and its seed and nothing that a call changes: called twice with the same slices it gives
    the same result. :class:`klip_monai.inferer.KLIPInferer` is one.
    """

    @property
    def passes(self) -> int:
        """NFE: passes of the network a slice; a backward pass through the network counts as two more."""
        ...

    def __call__(self, images: torch.Tensor, network: Denoiser, /) -> torch.Tensor:
        """Score slices.

        Args:
            images: standard slices in [-1, 1], float32 (B, 1, H, W).
            network: the prior.

        Returns:
            Float32, higher means more anomalous: maps (B, 1, H, W), not smoothed (a `KLIPInferer` smooths unless its
            ``smoothing_px`` is 0); or scores (B,) of whole slices, from methods that do not localise.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """All settings that a score depends on, JSON-able; the seed and the batch size are not among them."""
        ...


@runtime_checkable
class Fitted(Method, Protocol):
    """A method that compares with healthy slices, and is of no use before it has seen some."""

    def fit(self, images: torch.Tensor, body: torch.Tensor, network: Denoiser, /) -> Self:
        """Learn what healthy slices give. No anomalous slice takes part.

        Args:
            images: healthy standard slices in [-1, 1], float32 (B, 1, H, W), of other patients than will be scored.
            body: bool (B, 1, H, W), True inside the body.
            network: the prior.

        Returns:
            A fitted copy; the method itself stays as it is.

        Raises:
            InputError: if there are too few slices.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """A method in a comparison.

    Attributes:
        method: the method, or KLIP in several readings.
        network: its prior.
        null: calibrates its maps; None is what healthy slices of the comparison say.
    """

    method: Method | Readings
    network: Denoiser
    null: ContextNull | None = None
