from __future__ import annotations

import time

import pytest
import torch

from klip_monai.prior import GaussianDenoiser, PatchDenoiser, UNetDenoiser
from klip_monai.slice_batches import adds_in_one_order, in_batches
from klip_monai.slice_generator import SliceGenerator

PIECE_S = 0.05  # long enough for the caller to hear of a piece before the last is begun


def slices(n: int) -> torch.Tensor:
    """Slices that differ, none of them of air."""
    return torch.arange(n, dtype=torch.float32).div(n)[:, None, None, None].expand(n, 1, 4, 3)


def done(images: torch.Tensor, work, **options) -> dict[int, torch.Tensor]:
    """What the work gave, by slice."""
    settings = {"seed": 0, "places": None, "any_number": False, "on_gpu": 1, "progress": None}
    found = {}
    with in_batches(images, work, **settings | options) as each:
        for members, results in each:
            found |= dict(zip(members, results, strict=True))
    return found


def noise(images: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
    return generator.normal(images)


def test_each_slice_needs_a_place():
    with pytest.raises(ValueError, match="places: got 2, expected one for each of 3 slices"):
        done(slices(3), noise, places=[0, 1])


def test_every_slice_is_worked_on_once_and_has_the_noise_of_its_place():
    whole = done(slices(9), noise)
    assert sorted(whole) == list(range(9))
    some = done(slices(3), noise, places=[7, 0, 4])
    assert all(torch.equal(some[row], whole[place]) for row, place in enumerate([7, 0, 4]))
    assert not torch.equal(whole[0], done(slices(9), noise, seed=1)[0])


@pytest.mark.parametrize("any_number", [False, True])
def test_a_batch_is_filled_up_unless_any_number_gives_the_same_sums(any_number):
    sizes = []

    def work(images: torch.Tensor, generator: SliceGenerator) -> torch.Tensor:
        assert len(generator) == len(images)
        sizes.append(len(images))
        return images

    images = slices(6)
    found = done(images, work, any_number=any_number)
    assert sorted(sizes) == ([2, 4] if any_number else [4, 4])
    assert all(torch.equal(found[n], images[n]) for n in range(6))


def test_slices_of_air_are_left_out_and_progress_counts_them():
    images, seen = slices(12).clone(), []
    images[[0, 5, 11]] = -1.0
    found = done(images, noise, progress=lambda *counts: seen.append(counts))
    assert sorted(found) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert len(seen) == 3
    assert seen == sorted(seen)
    assert seen[-1] == (12, 12)


def test_work_keeps_no_gradients_and_leaves_the_autocast():
    def work(images: torch.Tensor, _: SliceGenerator) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        return images

    with torch.autocast("cpu"):
        assert len(done(slices(5), work)) == 5


def test_an_error_in_a_thread_is_raised_and_ends_the_work():
    calls = []

    def failing(images: torch.Tensor, _: SliceGenerator) -> torch.Tensor:
        calls.append(len(images))
        time.sleep(PIECE_S)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        done(slices(200), failing)
    assert len(calls) < 20


def test_progress_that_raises_ends_the_work():
    calls = []

    def work(images: torch.Tensor, _: SliceGenerator) -> torch.Tensor:
        calls.append(len(images))
        time.sleep(PIECE_S)
        return images

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(slices(200), work, progress=stop)
    assert len(calls) < 20


def test_a_u_net_and_what_is_no_network_add_in_one_order_others_may_not():
    unet = UNetDenoiser((8, 8), [8, 8], num_head_channels=8, norm_num_groups=4)
    assert adds_in_one_order(unet)
    assert adds_in_one_order(GaussianDenoiser(std=0.5))
    assert not adds_in_one_order(PatchDenoiser(unet))
