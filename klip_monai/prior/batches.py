"""Data order that can be taken up again anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sized

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

    Attributes:
        start_iteration: iteration (0-based, counted over all epochs) at which the next pass begins.

    Raises:
        InputError: if the dataset cannot fill one batch.
    """

    def __init__(self, dataset: Sized, *, batch_size: int, seed: int = 0) -> None:
        if not 1 <= batch_size <= len(dataset):
            raise InputError(f"batch_size: got {batch_size}, expected 1 to {len(dataset)}, the slices of the dataset.")
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
            order = torch.randperm(self.dataset_length, generator=generator).tolist()
            for batch in range(position, len(self)):
                yield order[batch * self.batch_size : (batch + 1) * self.batch_size]
            epoch, position = epoch + 1, 0
