"""Work on some slices at a time: on a CPU side by side, each batch on a core of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from klip_monai.one_thread_each import one_after_the_other, one_thread_each
from klip_monai.prior import Denoiser, UNetDenoiser
from klip_monai.scoring import SliceMoves
from klip_monai.slice_generator import SliceGenerator

Work = TypeVar("Work", torch.Tensor, SliceMoves)

Progress = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""

_AIR = -1.0
_TOGETHER = 4  # slices that a core works on at a time: matrices of operators are read once for all of them


@contextmanager
def in_batches(
    slices: torch.Tensor,
    work: Callable[[torch.Tensor, SliceGenerator], Work],
    *,
    seed: int,
    places: Sequence[int] | None,
    any_number: bool,
    on_gpu: int,
    progress: Progress | None,
) -> Iterator[Iterator[tuple[list[int], Work]]]:
    """Do a piece of work on some slices at a time.

    Args:
        slices: standard slices, float32 (B, 1, H, W).
        work: called with N slices and the source of their randomness, without gradients; gives
            a tensor (N, ...) or `SliceMoves`.
        seed: of the randomness.
        places: index of each slice in its volume; None: their order.
        any_number: the work adds in one order for any number of slices.
        on_gpu: how many slices a GPU works on at a time.
        progress: called with (slices done, slices in all) after each batch.

    Yields:
        Which slices, and what the work gave for them, as they are done. Slices of nothing but air are left out.

    Raises:
        ValueError: unless there is a place for each slice.
    """
    places = range(len(slices)) if places is None else places
    if len(places) != len(slices):
        raise ValueError(f"places: got {len(places)}, expected one for each of {len(slices)} slices")
    chosen = [n for n in range(len(slices)) if shows_body(slices[n])]
    on_cpu = slices.device.type == "cpu"
    size = _TOGETHER if on_cpu else on_gpu
    batches = [chosen[lo : lo + size] for lo in range(0, len(chosen), size)]

    def on_batch(batch: list[int]) -> Work:
        # Operators and networks add in another order for another number of slices, so on a CPU there are always as
        # many: the last slice fills a batch up.
        filled = batch + batch[-1:] * (size - len(batch)) if on_cpu and not any_number else batch
        generator = SliceGenerator(seed, [places[n] for n in filled])
        # Both hold for their own thread only. Within an autocast, inner ones keep the weights that they have cast.
        with torch.inference_mode(), torch.autocast(slices.device.type, enabled=False):
            return work(slices[filled], generator)[: len(batch)]

    def results(each: Iterator[tuple[int, Work]]) -> Iterator[tuple[list[int], Work]]:
        done = len(slices) - len(chosen)
        for number, result in each:
            yield batches[number], result
            done += len(batches[number])
            if progress is not None:
                progress(done, len(slices))

    with one_thread_each(on_batch, batches) if on_cpu else one_after_the_other(on_batch, batches) as each:
        yield results(each)


def shows_body(image: torch.Tensor) -> bool:
    """Whether a standard slice (1, H, W) shows anything but air."""
    return bool((image > _AIR).any())


def adds_in_one_order(network: Denoiser) -> bool:
    """Whether a prior in its boxes adds in one order for any number of slices: a U-Net does, and what is no network."""
    return isinstance(network, UNetDenoiser) or not isinstance(network, torch.nn.Module)
