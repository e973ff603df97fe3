"""Moves of a whole scan, low-passed along it too before they are squared: the KL density in three dimensions.

In the plane a Gaussian G restricts the density to structures wider than itself (see
:class:`klip_monai.scoring.KLAccumulator`). Nothing says that this stops at the slice. The prior knows each slice by
itself, so the moves of a scan's slices are the moves of one process, whose prior is the product of theirs, and its KL
divergence is the sum of theirs. By Parseval in three dimensions, with G the product of one Gaussian in the plane and
one along the scan,

    sum over voxels of (G * (D_y - D))^2 = sum over frequencies f of |G(f)|^2 |FT(D_y - D)(f)|^2,

the part of that sum which structures carry that are wide in all three directions. Noise grain, drawn anew in every
slice, cancels; tissue that goes on in the next slice does not. Where a scan ends, the Gaussian along it is the mean of
the slices that there are, so that a scan of one slice is read as a slice is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from klip_monai.scoring.density import Move, Window, move_of, to_pixels
from klip_monai.scoring.twins import over_twins

if TYPE_CHECKING:
    from klip_monai.sampling import Step

_REACH = 3.0  # standard deviations that a Gaussian along the scan reaches to either side


class Moves:
    """Keeps the moves of the steps it is called with, low-passed in the plane, as they are before they are squared.

    Args:
        window: the noise levels that count.
        lowpass_px, noise_px: see :class:`klip_monai.scoring.KLAccumulator`.
    """

    def __init__(self, window: Window, *, lowpass_px: float, noise_px: float) -> None:
        self.window, self.lowpass_px, self.noise_px = window, lowpass_px, noise_px
        self._moves: list[Move] = []
        self._weights: list[float] = []

    def __call__(self, step: Step) -> None:
        """Keep one step."""
        weight = self.window.weight(step.sigma, step.sigma_next)
        if weight > 0:
            self._moves.append(move_of(step, self.lowpass_px, noise=self.noise_px > 0))
            self._weights.append(weight)

    def of_slices(self, *, samples: int = 1, draws: int = 1) -> SliceMoves:
        """What was kept, slice by slice.

        Args:
            samples: neighbouring rows of a step that are samples of one slice; their densities are averaged.
            draws: passes over the window's levels, likewise.

        Raises:
            ValueError: if no step fell into the window.
        """
        if not self._moves:
            raise ValueError(f"window: no step had a noise level within {self.window.low:g} to {self.window.high:g}")
        first = self._moves[0]
        crossed = first.other is not first.move
        levels = []
        for move in self._moves:
            channels = [move.move, *[move.other] * crossed, *([] if move.noise is None else [move.noise])]
            levels.append(torch.cat(channels, dim=1))
        values = torch.stack(levels, dim=1).unflatten(0, (-1, samples)).flatten(1, 2)
        weights = tuple(weight / (samples * draws) for weight in self._weights) * samples
        return SliceMoves(values[:, None], weights, crossed, self.noise_px, first.coarser)


@dataclass(frozen=True)
class SliceMoves:
    """Low-passed moves of B slices.

    Attributes:
        values: float32 (B, R, N, C, h, w): R runs, the slice's own and those of its twins; N levels and samples; the
            move, what it is multiplied with if ``crossed``, and the noise if it is known.
        weights: of each of N, nats per squared unit of the [-1, 1] image.
        crossed: whether the move is multiplied with another one than itself.
        noise_px: see :class:`klip_monai.scoring.KLAccumulator`.
        coarser: pixels of the slice in one pixel of ``values``, along either side.
        sharp: density of all spatial frequencies, in the plane, float32 (B, 1, H, W), nats per pixel; None without.
    """

    values: torch.Tensor
    weights: tuple[float, ...]
    crossed: bool
    noise_px: float
    coarser: int
    sharp: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of slices B."""
        return len(self.values)

    def __getitem__(self, some: slice) -> SliceMoves:
        """Some of the slices."""
        return replace(self, values=self.values[some], sharp=None if self.sharp is None else self.sharp[some])

    def beside(self, twins: Sequence[SliceMoves]) -> SliceMoves:
        """The same slices with the runs of their twins."""
        return replace(self, values=torch.cat([self.values, *[twin.values for twin in twins]], dim=1))

    def density(self) -> torch.Tensor:
        """KL density of each run, at least 0: float32 (B, R, H, W), nats per pixel."""
        total = torch.cat([self._squared(run) for run in self.values.flatten(0, 1)])
        height, width = (self.coarser * side for side in total.shape[-2:])
        density = to_pixels(total, torch.Size((1, 1, height, width))).clamp_min(0)
        return density[:, 0].unflatten(0, self.values.shape[:2])

    def _squared(self, levels: torch.Tensor) -> torch.Tensor:
        """The sum over the levels (N, C, h, w) of a run, (1, 1, h, w): all at a time, as each is next to no work."""
        move, *rest = levels.split(1, dim=1)
        other = rest.pop(0) if self.crossed else move
        squares = Move(move, other, rest[0] if rest else None, self.coarser).squared(self.noise_px)
        total = torch.zeros_like(squares[:1])
        for weight, square in zip(self.weights, squares.split(1), strict=True):
            total += weight * square
        return total

    def map(self, *, twin_smoothing_px: float) -> torch.Tensor:
        """Density over that of the twins if there are any, and the sharp one if there is: float32 (B, 1 or 2, H, W)."""
        density = self.density()
        if density.shape[1] > 1:
            return over_twins(density[:, :1], density[:, 1:], smoothing_px=twin_smoothing_px)
        return density if self.sharp is None else torch.cat([density, self.sharp], dim=1)


def check_slice_mm(slice_mm: float) -> None:
    """Refuse what is no distance of slices.

    Raises:
        ValueError: 0, below 0, infinite or NaN.
    """
    if not 0 < slice_mm < math.inf:
        raise ValueError(f"slice_mm: got {slice_mm}, expected the distance of neighbouring slices, above 0 mm")


class AlongScan:
    """A Gaussian mean along a scan of what comes slice by slice, in whatever order, from the slices that there are.

    No slice is kept longer than a neighbour needs it, so memory does not grow with the scan. Each mean is summed in the
    order of the slices: the same bits in whatever order they come.

    Args:
        slices: number of slices of the scan.
        slice_mm: distance between neighbours, mm.
        sigma_mm: standard deviation of the Gaussian, mm; 0 leaves slices as they are.

    Raises:
        ValueError: for a distance that is none.
    """

    def __init__(self, slices: int, *, slice_mm: float, sigma_mm: float) -> None:
        check_slice_mm(slice_mm)
        self.slices, self.reach = slices, math.floor(_REACH * sigma_mm / slice_mm + 1e-6)
        shares = [math.exp(-0.5 * (away * slice_mm / sigma_mm) ** 2) if away else 1.0 for away in range(self.reach + 1)]
        self._shares = shares
        self._kept: dict[int, torch.Tensor | None] = {}
        self._waits_for = [len(self._around(place)) for place in range(slices)]
        self._wanted_by = list(self._waits_for)  # as many slices want one as it wants itself

    @property
    def noise_left(self) -> torch.Tensor:
        """Share of the energy that noise, drawn anew in every slice, has left in each mean: float32 (slices,)."""
        left = [sum(share**2 for share in self._weights(place).values()) for place in range(self.slices)]
        return torch.tensor(left)

    def __call__(self, place: int, values: torch.Tensor | None) -> list[tuple[int, torch.Tensor | None]]:
        """Take a slice, and give those whose neighbours have all come.

        Args:
            place: index of the slice in the scan, each once.
            values: of any shape, the same for all; None where there is nothing, which counts as zero.

        Returns:
            Place and mean of each, ascending; None where there was nothing in the slice itself.
        """
        self._kept[place] = values
        ready = []
        for near in self._around(place):
            self._waits_for[near] -= 1
            if self._waits_for[near] == 0:
                ready.append((near, self._mean(near)))
        for near, _ in ready:
            for used in self._around(near):
                self._wanted_by[used] -= 1
                if self._wanted_by[used] == 0:
                    del self._kept[used]
        return ready

    def _around(self, place: int) -> range:
        return range(max(0, place - self.reach), min(self.slices, place + self.reach + 1))

    def _mean(self, place: int) -> torch.Tensor | None:
        own = self._kept[place]
        if own is None or self.reach == 0:
            return own
        mean = torch.zeros_like(own)
        for near, weight in self._weights(place).items():
            values = self._kept[near]
            if values is not None:
                mean.add_(values, alpha=weight)
        return mean

    def _weights(self, place: int) -> dict[int, float]:
        """Of each slice around, in the mean of one."""
        shares = {near: self._shares[abs(near - place)] for near in self._around(place)}
        whole = math.fsum(shares.values())
        return {near: share / whole for near, share in shares.items()}
