"""Scans that share batches score what each scores by itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.screening.shared_batches import SharedBatches

SHAPE = (16, 12)


class Gate:
    """A prior that lets no batch through before it is opened."""

    def __init__(self) -> None:
        self.prior, self.open, self.fails = GaussianDenoiser(std=0.5), threading.Event(), False

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        assert self.open.wait(20)
        if self.fails:
            raise MemoryError
        return self.prior(x, sigma)


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """Slices of each batch that an inferer was given and did not fail at."""
    found, score = [], KLIPInferer.__call__

    def scored(self: KLIPInferer, inputs: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        maps = score(self, inputs, *args, **options)
        found.append(len(inputs))
        return maps

    monkeypatch.setattr(KLIPInferer, "__call__", scored)
    return found


@pytest.fixture
def inferer() -> KLIPInferer:
    return KLIPInferer(Identity(SHAPE), window_levels=1, sampler_levels=0)


def scans(*slices: int) -> list[torch.Tensor]:
    return [torch.rand(n, 1, *SHAPE, generator=torch.Generator().manual_seed(n)) - 0.5 for n in slices]


def together(batches: SharedBatches, given: Sequence[torch.Tensor], gate: Gate, *, size: int) -> list[torch.Tensor]:
    """Maps of scans that all wait before the first batch is scored."""
    with ThreadPoolExecutor(len(given)) as threads:
        futures = [threads.submit(batches, slices, size=size) for slices in given]
        while len(batches._queue) + bool(batches._scoring.locked()) < len(given):
            pass
        gate.open.set()
        return [future.result(20)[0] for future in futures]


@pytest.mark.parametrize("size", [4, 8, 64])
def test_short_scans_fill_a_batch_together_and_score_as_alone(inferer, size, sizes):
    given, gate = scans(3, 5, 4, 7), Gate()
    batches = SharedBatches(inferer.changed(), gate, device="cpu", together=True)
    shared = together(batches, given, gate, size=size)
    assert set(sizes) == {size}, "a batch is filled up"
    assert len(sizes) <= -(-19 // size) + 1, "the first may have begun before the others came"
    for slices, maps in zip(given, shared, strict=True):
        torch.testing.assert_close(maps, inferer(slices, GaussianDenoiser(std=0.5)))


def test_scans_that_do_not_share_are_scored_one_after_the_other_as_a_whole(inferer, sizes):
    given, gate = scans(3, 5), Gate()
    shared = together(SharedBatches(inferer.changed(), gate, device="cpu", together=False), given, gate, size=4)
    assert sorted(sizes) == [3, 5]
    for slices, maps in zip(given, shared, strict=True):
        torch.testing.assert_close(maps, inferer(slices, GaussianDenoiser(std=0.5)))


def test_what_goes_wrong_with_a_batch_is_told_to_each_of_its_scans_and_the_next_are_scored(inferer):
    given, gate = scans(2, 3), Gate()
    gate.fails = True
    batches = SharedBatches(inferer.changed(), gate, device="cpu", together=True)
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(batches, slices, size=8) for slices in given]
        gate.open.set()
        for future in futures:
            with pytest.raises(MemoryError):
                future.result(20)
    gate.fails = False
    maps, seconds = batches(given[0], size=8)
    assert len(maps) == 2
    assert seconds > 0


def test_a_scan_that_is_stopped_leaves_the_queue(inferer, sizes):
    gate = Gate()
    gate.open.set()
    batches = SharedBatches(inferer, gate, device="cpu", together=True)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        batches(scans(3)[0], size=8, check=stop)
    assert not sizes
    assert len(batches(scans(2)[0], size=8)[0]) == 2
    assert sizes == [8]


def test_a_long_scan_stops_between_its_slices(inferer, sizes):
    gate, checks = Gate(), []
    gate.open.set()

    def stop() -> None:
        checks.append(1)
        if len(checks) > 2:
            raise InterruptedError

    batches = SharedBatches(inferer, gate, device="cpu", together=False)
    with pytest.raises(InterruptedError):
        batches(scans(100)[0], size=8, check=stop)
    assert len(checks) == 3
    assert not sizes
