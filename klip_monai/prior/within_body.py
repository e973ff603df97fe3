"""A prior that is asked about the body only: air around it costs no arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch

from klip_monai.prior.denoiser import Denoiser, UNetDenoiser

_AIR = -1.0


class Box(NamedTuple):
    """A rectangle of a slice, in pixels: first row and column, and how many of each."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def edges(self, shape: Sequence[int]) -> tuple[float, float, float, float]:
        """Top, left, bottom and right in units in which a slice of ``shape`` (H, W) reaches from -1 to 1."""
        rows, columns = (2 / size for size in shape)
        top, left = self.top * rows - 1, self.left * columns - 1
        return top, left, top + self.height * rows, left + self.width * columns


def body_box(image: torch.Tensor, *, margin_px: int, multiple: int) -> Box | None:
    """The smallest box around a body that a network can take.

    Args:
        image: a standard slice (1, H, W) in [-1, 1], -1 outside of the body.
        margin_px: air to keep around the body, where the slice has it.
        multiple: sides of the box are multiples of it, as those of the slice are.

    Returns:
        The box, in the middle of which the body lies as far as the slice's edges allow; None for a slice of air.
    """
    inside = image[0] > _AIR
    ranges = []
    for axis, size in enumerate(inside.shape):
        occupied = inside.any(dim=1 - axis).nonzero()
        if not len(occupied):
            return None
        first, last = int(occupied[0]) - margin_px, int(occupied[-1]) + 1 + margin_px
        side = min(math.ceil((min(last, size) - max(first, 0)) / multiple) * multiple, size)
        ranges.append((min(max((first + last - side) // 2, 0), size - side), side))
    (top, height), (left, width) = ranges
    return Box(top, left, height, width)


def boxes_of(images: torch.Tensor, network: Denoiser, *, margin_px: int | None) -> list[Box]:
    """The boxes that a network is to see of standard slices.

    Args:
        images: (B, 1, H, W) in [-1, 1], -1 outside of the body.
        network: the prior.
        margin_px: see :func:`body_box`; None takes whole slices.

    Returns:
        A box for each slice; the whole slice where there is no body, or the network takes whole slices only.
    """
    whole = Box(0, 0, *images.shape[-2:])
    if margin_px is None or not isinstance(network, UNetDenoiser):
        return [whole] * len(images)
    boxes = (body_box(image, margin_px=margin_px, multiple=network.multiple) for image in images.cpu())
    return [box or whole for box in boxes]


class InBoxes:
    """A denoiser that sees a box of each slice, and takes the rest for the air that it is.

    A slice's box does not depend on other slices, and slices pass the network together only where their boxes have one
    shape, so what a slice is given does not depend on the others.

    Args:
        network: the prior.
        boxes: of each of B slices, see :func:`boxes_of`.
        rows: states that pass the network together, at most.
    """

    def __init__(self, network: Denoiser, boxes: Sequence[Box], *, rows: int) -> None:
        self.network, self.rows, self._boxes = network, rows, list(boxes)

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Denoise ``x``, (B * R, 1, H, W) with R states of each slice side by side; see `Denoiser`."""
        states = x.unflatten(0, (len(self._boxes), -1))
        levels = sigma.unflatten(0, (len(self._boxes), -1)) if isinstance(sigma, torch.Tensor) else sigma
        out = torch.full_like(states, _AIR)
        for members, part in self._passes(states.shape[1], alone=x.device.type == "cpu"):
            of = levels[members, part].flatten() if isinstance(levels, torch.Tensor) else levels
            self._denoise(states, of, out, members, part)
        return out.flatten(0, 1)

    def _passes(self, repeats: int, *, alone: bool) -> Iterator[tuple[list[int], slice]]:
        """Which slices, and which of their states, pass the network together: their boxes have one shape.

        Where slices have several states each, a CPU takes them slice by slice (``alone``): it gains nothing by more,
        and adds in the same order whatever slices there are.
        """
        parts = -(-repeats // self.rows)
        cuts = [repeats * number // parts for number in range(parts + 1)]
        most = 1 if repeats > 1 and alone else max(1, self.rows // repeats)
        by_shape: dict[tuple[int, int], list[int]] = {}
        for number, box in enumerate(self._boxes):
            by_shape.setdefault((box.height, box.width), []).append(number)
        for members in by_shape.values():
            for first in range(0, len(members), most):
                yield from ((members[first : first + most], slice(*cut)) for cut in pairwise(cuts))

    def _denoise(
        self,
        states: torch.Tensor,
        sigma: float | torch.Tensor,
        out: torch.Tensor,
        members: list[int],
        part: slice,
    ) -> None:
        """Some states of slices whose boxes have one shape, into ``out``; both (B, R, 1, H, W)."""
        boxes = [self._boxes[number] for number in members]
        views = [(number, part, slice(None), *box.slices) for number, box in zip(members, boxes, strict=True)]
        x = torch.cat([states[view] for view in views])
        shape, edges = tuple(states.shape[-2:]), None
        if boxes[0][2:] != shape:
            edges = x.new_tensor([box.edges(shape) for box in boxes]).repeat_interleave(len(x) // len(boxes), 0)
        denoised = self._network_on(x, sigma, edges)
        for view, each in zip(views, denoised.chunk(len(views)), strict=True):
            out[view] = each

    def _network_on(self, x: torch.Tensor, sigma: float | torch.Tensor, edges: torch.Tensor | None) -> torch.Tensor:
        """The network's answer; a single state goes twice, as for one it adds in another order than for several."""
        alone = len(x) == 1 and isinstance(self.network, UNetDenoiser) and x.device.type == "cpu"
        if alone:
            x, edges = x.expand(2, -1, -1, -1), None if edges is None else edges.expand(2, -1)
            sigma = sigma.expand(2) if isinstance(sigma, torch.Tensor) else sigma
        if edges is None:
            return self.network(x, sigma)[:1] if alone else self.network(x, sigma)
        denoised = cast(UNetDenoiser, self.network)(x, sigma, edges)
        return denoised[:1] if alone else denoised
