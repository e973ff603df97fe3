"""Random numbers for slices that pass the network together, none of which depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from klip_monai.errors import InputError

_SEEDS = 2**32


class SliceGenerator:
    """One `torch.Generator` for each slice of a batch, seeded by a hash of the seed and the slice's place.

    What a slice is given follows from the seed, its place and what it drew before, so a scan scores the same in batches
    of any size and beside slices of any other scan. All numbers are drawn on the CPU, in the dtype that is asked for,
    and then moved, so they are the same on every device; beside a pass of the network that costs little.

    Args:
        seed: of all slices.
        places: index of each slice in its volume, at least 0.
    """

    def __init__(self, seed: int, places: Iterable[int]) -> None:
        # The modulus lets negative seeds through, which torch accepts and numpy does not.
        keys = [np.random.SeedSequence((seed % 2**64, place)).generate_state(1)[0] for place in places]
        self._generators = _seeded(keys)

    def __len__(self) -> int:
        """Number of slices B."""
        return len(self._generators)

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        """White noise of standard deviation 1, with shape (B, ...), dtype and device of ``like``.

        Raises:
            InputError: ``like`` has another number of slices.
        """
        noise = torch.empty(like.shape, dtype=like.dtype)
        for row, generator in self._rows(noise):
            row.normal_(generator=generator)
        return noise.to(like.device)

    def poisson(self, rates: torch.Tensor) -> torch.Tensor:
        """Poisson counts of mean ``rates`` (B, ...), with their shape, dtype and device.

        Raises:
            InputError: ``rates`` has another number of slices.
        """
        counts = [torch.poisson(row, generator=generator) for row, generator in self._rows(rates.cpu())]
        return torch.stack(counts).to(rates.device)

    def integers(self, end: int) -> list[int]:
        """For each slice a whole number from 0 up to, but not including, ``end``."""
        return [int(torch.randint(end, (), generator=generator)) for generator in self._generators]

    def repeated(self, times: int) -> SliceGenerator:
        """Independent generators for ``times`` repeats of each slice, a slice's repeats side by side.

        They follow from numbers that each slice draws: the first repeats are the same however many there are.
        """
        repeated = SliceGenerator(0, ())
        repeated._generators = _seeded(
            key
            for generator in self._generators
            for key in torch.randint(_SEEDS, (times,), generator=generator).tolist()
        )
        return repeated

    def _rows(self, values: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Generator]]:
        """Each slice's values and its generator."""
        if len(values) != len(self):
            raise InputError(f"generator: got one of {len(self)} slices for a batch of {len(values)}, expected as many")
        return zip(values, self._generators, strict=True)


def _seeded(keys: Iterable[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(int(key)) for key in keys]
