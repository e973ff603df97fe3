"""Batches of a slice set that lies in memory whole, so that a GPU never waits for the disk."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from klip_monai.training.batches import SeededBatchSampler
from klip_monai.training.slice_set import SliceSet


class ResidentSlices:
    """What a data loader over a slice set would give, from a copy of the set in a device's memory.

    The copy takes 2 bytes a pixel: 13 GB for 100,000 slices of 256 x 256.

    Args:
        dataset: the slice set; read once.
        batch_sampler: which slices make a batch.
        device: where the copy lies and the batches are made.
    """

    def __init__(self, dataset: SliceSet, batch_sampler: SeededBatchSampler, *, device: str | torch.device) -> None:
        self.dataset = dataset
        self.batch_sampler = batch_sampler
        self.device = torch.device(device)
        self._images = torch.cat([torch.from_numpy(dataset.planes(n).copy()) for n in range(len(dataset.groups))])
        self._images = self._images[:, None].to(self.device)
        self._lowest = dataset.lowest_known().to(self.device)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches: ``image`` and ``weight``, float32 (B, 1, H, W), as in :class:`SliceSet`."""
        for indices in self.batch_sampler:
            at = torch.tensor(indices, device=self.device)
            image = self._images[at].float()
            yield {"image": image, "weight": self.dataset.weight(image, self._lowest[at, None, None, None])}
