from __future__ import annotations

import random

import pytest
import torch

from klip_monai.scan_reading import ScanReading
from klip_monai.scoring import SliceMoves, smooth

SLICES, SHAPE = 9, (16, 12)


def moves(*, runs: int = 1, sharp: bool = False) -> SliceMoves:
    """Moves of a scan: one level, not crossed."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(SLICES, runs, 1, 1, *SHAPE, generator=generator)
    density = torch.rand(SLICES, 1, *SHAPE, generator=generator) if sharp else None
    return SliceMoves(values, (0.5,), False, 0.0, 1, density)


def read(made: SliceMoves, *, order: list[int] | None = None, air: tuple[int, ...] = (), **options) -> torch.Tensor:
    settings = {"slice_mm": 2.0, "lowpass_z_mm": 3.0, "smoothing_z_mm": 2.0, "smoothing_px": 1.0}
    settings |= {"twin_smoothing_px": 1.0, "sharp": made.sharp is not None}
    reading = ScanReading(torch.zeros(SLICES, 1, *SHAPE), **settings | options)
    for z in range(SLICES) if order is None else order:
        reading.take(z, None if z in air else made[z : z + 1])
    return reading.maps


@pytest.mark.parametrize("made", [moves(), moves(runs=3), moves(sharp=True)], ids=["plain", "twins", "sharp"])
def test_the_order_in_which_slices_come_changes_no_bit(made):
    expected, order = read(made), list(range(SLICES))
    assert expected.shape == (SLICES, 1 if made.sharp is None else 2, *SHAPE)
    assert bool((expected.amax(dim=(1, 2, 3)) > 0).all())
    for seed in range(3):
        random.Random(seed).shuffle(order)
        assert torch.equal(read(made, order=order), expected)


@pytest.mark.parametrize("made", [moves(), moves(runs=3), moves(sharp=True)], ids=["plain", "twins", "sharp"])
def test_slices_of_unknown_distance_are_read_each_by_itself(made):
    each = smooth(made.map(twin_smoothing_px=1.0), sigma_px=1.0)
    torch.testing.assert_close(read(made, slice_mm=None), each)
    torch.testing.assert_close(read(made, lowpass_z_mm=0.0, smoothing_z_mm=0.0), each)
    assert not torch.allclose(read(made), each)


def test_slices_of_air_score_nothing_and_count_as_zero_for_their_neighbours():
    made = moves()
    maps = read(made, air=(0, 4))
    assert not maps[[0, 4]].any()
    assert 0 < float(maps[3].mean()) != float(read(made)[3].mean())
