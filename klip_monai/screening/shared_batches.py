"""Slices of several scans in one batch, so that short scans fill a GPU as well as long ones do."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import torch

from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser


@dataclass(eq=False)
class _Scan:
    """Slices that wait (Z, 1, H, W), their maps so far, and what went wrong with them."""

    slices: torch.Tensor
    maps: list[torch.Tensor] = field(default_factory=list)
    taken: int = 0
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or sum(map(len, self.maps)) == len(self.slices)


class SharedBatches:
    """An inferer that several threads call at once; whoever comes first scores for those who wait, too.

    What a slice is given does not depend on what else is in its batch (see
    :class:`klip_monai.slice_generator.SliceGenerator`). Batches of several scans are filled up if they are not full, so
    that a GPU, which may add in another order for another number of slices, adds in the same one each time.

    Args:
        inferer: what maps slices.
        network: the prior.
        device: where it is.
        together: take slices of several scans into a batch. A CPU gains nothing by it, and takes a scan as a whole.
    """

    def __init__(self, inferer: KLIPInferer, network: Denoiser, *, device: torch.device | str, together: bool) -> None:
        self._inferer, self._network, self._device, self._together = inferer, network, device, together
        self._queue: deque[_Scan] = deque()
        self._waiting, self._scoring = threading.Lock(), threading.Lock()

    def __call__(
        self, slices: torch.Tensor, *, size: int, check: Callable[[], None] = lambda: None
    ) -> tuple[torch.Tensor, float]:
        """Map the standard slices of one scan.

        Args:
            slices: float32 (Z, 1, H, W) in [-1, 1], on the CPU.
            size: slices of a batch; a CPU settles it itself.
            check: called before each batch, and on a CPU whenever some slices are done; ends this scan by raising.

        Returns:
            What the inferer gives, float32 (Z, 1 or 2, H, W), on the CPU; and the seconds that it took, those of shared
            batches by the scan's share of their slices.
        """
        scan = _Scan(slices)
        with self._waiting:
            self._queue.append(scan)
        try:
            while not scan.done:
                with self._scoring:
                    if not scan.done:
                        check()
                        self._score(self._next(size if self._together else len(slices)), size, check)
        finally:
            with self._waiting:
                if scan in self._queue:
                    self._queue.remove(scan)
        if scan.error is not None:
            raise scan.error
        return torch.cat(scan.maps), scan.seconds

    def _next(self, size: int) -> list[tuple[_Scan, range]]:
        """The slices that have waited longest, as many as a batch holds."""
        parts: list[tuple[_Scan, range]] = []
        with self._waiting:
            while self._queue and size and (self._together or not parts):
                scan = self._queue[0]
                places = range(scan.taken, min(scan.taken + size, len(scan.slices)))
                parts.append((scan, places))
                scan.taken, size = places.stop, size - len(places)
                if scan.taken == len(scan.slices):
                    self._queue.popleft()
        return parts

    def _score(self, parts: list[tuple[_Scan, range]], size: int, check: Callable[[], None]) -> None:
        start = time.perf_counter()
        batch = torch.cat([scan.slices[places.start : places.stop] for scan, places in parts])
        places = [place for _, part in parts for place in part]
        inferer = self._inferer.changed(progress=lambda *_: check())
        if self._together:
            inferer = self._inferer.changed(batch_size=size * self._inferer.samples)
            batch = torch.cat([batch, batch[-1:].expand(size - len(batch), -1, -1, -1)])
            places += [0] * (size - len(places))
        try:
            maps = iter(inferer(batch.to(self._device), self._network, places=places).cpu())
        except Exception as error:
            for scan, _ in parts:
                scan.error = error
            return
        seconds = (time.perf_counter() - start) / sum(len(part) for _, part in parts)
        for scan, part in parts:
            scan.maps.append(torch.stack(list(islice(maps, len(part)))))
            scan.seconds += seconds * len(part)
