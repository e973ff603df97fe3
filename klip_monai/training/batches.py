"""Data order that can be taken up again anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import torch
from torch.utils.data import Sampler

from klip_monai.errors import InputError


class SeededBatchSampler(Sampler[list[int]]):
    """Endless shuffled batches whose order depends only on (seed, epoch), so that any iteration can be the first.

    It never ends, so workers keep prefetching across epochs; ``len`` is the number of batches in one epoch.
    A last batch that would be short is left out of its epoch.

    Args:
        dataset: what is sampled; only its length is used.
        batch_size: indices per batch.
        seed: seed of the order.
        weights: how often each item is drawn, relative to the others, with replacement; None shuffles, so that each
            epoch has every item once.

    Attributes:
        start_iteration: iteration (0-based, counted over all epochs) at which the next pass begins.

    Raises:
        InputError: if the dataset cannot fill one batch.
    """

    def __init__(
        self, dataset: Sized, *, batch_size: int, seed: int = 0, weights: Sequence[float] | None = None
    ) -> None:
        if not 1 <= batch_size <= len(dataset):
            raise InputError(f"batch_size: got {batch_size}, expected 1 to {len(dataset)}, the slices of the dataset.")
        if weights is not None and len(weights) != len(dataset):
            raise InputError(f"weights: got {len(weights)}, expected {len(dataset)}, one for each slice.")
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.dataset_length = len(dataset)
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = 0

    def __len__(self) -> int:
        return self.dataset_length // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        epoch, position = divmod(self.start_iteration, len(self))
        while True:
            generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
            order = self._order(generator)
            for batch in range(position, len(self)):
                yield order[batch * self.batch_size : (batch + 1) * self.batch_size]
            epoch, position = epoch + 1, 0

    def _order(self, generator: torch.Generator) -> list[int]:
        """The items of one epoch."""
        n = self.dataset_length
        if self.weights is None:
            return [int(i) for i in torch.randperm(n, generator=generator)]
        return [int(i) for i in torch.multinomial(self.weights, n, replacement=True, generator=generator)]
