from __future__ import annotations

import pytest
import torch

from klip_monai.training import BatchAugment

STILL = {"rotation": 0.0, "scale": 0.0, "translation": 0.0, "contrast": 0.0, "probability": 1.0}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def disc(height: int = 48, width: int = 64) -> torch.Tensor:
    rows, columns = torch.arange(height)[:, None] - height / 2 + 0.5, torch.arange(width) - width / 2 + 0.5
    return (((rows**2 + columns**2).sqrt() - 12) * -1).tanh().expand(6, 1, height, width)


def test_no_motion_leaves_the_slices():
    images = disc()
    torch.testing.assert_close(BatchAugment(**STILL)(images, generator())[0], images, rtol=0, atol=1e-5)


def test_values_stay_in_range_and_air_stays_air():
    images = disc().clone()
    images[images < 0] = -1
    out = BatchAugment(contrast=0.2)(images, generator())[0]
    assert float(out.min()) == -1
    assert float(out.max()) <= 1
    assert (out[..., :2, :] == -1).all()


def test_rotation_keeps_a_disc_round_on_an_oblong_grid():
    images = disc()
    out = BatchAugment(**{**STILL, "rotation": 90.0})(images, generator())[0]
    torch.testing.assert_close(out, images, rtol=0, atol=0.1)


def test_translation_is_in_pixels():
    out = BatchAugment(**{**STILL, "translation": 5.0})(disc(), generator())[0]
    mass = out[:, 0] + 1
    rows = (mass.sum(2) * torch.arange(48)).sum(1) / mass.sum((1, 2)) - 23.5
    columns = (mass.sum(1) * torch.arange(64)).sum(1) / mass.sum((1, 2)) - 31.5
    draws = 2 * torch.rand(10, 6, generator=generator()) - 1
    torch.testing.assert_close(rows, -5 * draws[2], rtol=0, atol=0.1)
    torch.testing.assert_close(columns, -5 * draws[3], rtol=0, atol=0.1)


def test_unmoved_share_keeps_its_sampling():
    images = torch.rand(400, 1, 8, 8) * 2 - 1
    out = BatchAugment(contrast=0.0, probability=0.25)(images, generator())[0]
    unmoved = (out - images).abs().amax((1, 2, 3)) < 1e-5
    assert float(unmoved.float().mean()) == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("lowest", [0.0, 0.25])
def test_weights_move_with_the_slices_and_unknown_pixels_stay_unknown(lowest: float):
    images = disc().clone()
    weight = (images < 0).float().clamp_min(lowest)  # the disc itself is unknown
    out, moved = BatchAugment(**{**STILL, "translation": 6.0, "elastic": 1.0})(images, generator(), weight=weight)
    assert set(moved.unique().tolist()) == {lowest, 1.0}
    assert (moved[out > 0.2] == lowest).all()
    assert moved[out < -0.9].float().mean() > 0.95


def test_elastic_motion_has_the_standard_deviation_it_is_given():
    columns = torch.linspace(-0.9, 0.9, 64).expand(200, 1, 48, 64)
    out, _ = BatchAugment(**{**STILL, "elastic": 2.0})(columns, generator())
    inner = (out - columns)[..., 8:-8, 12:-12] / (1.8 / 63)
    assert float(inner.std()) == pytest.approx(2.0, rel=0.25)


def test_gamma_and_blur_keep_both_ends_of_the_window():
    images = torch.full((4, 1, 32, 32), -1.0)
    images[:, :, 8:24] = 1.0
    out, _ = BatchAugment(**{**STILL, "gamma": 0.3, "blur": 1.0})(images, generator())
    assert (out[:, :, :2] == -1).all()
    torch.testing.assert_close(out[:, :, 14:18, 8:24], images[:, :, 14:18, 8:24], rtol=0, atol=1e-3)


def test_added_noise_has_at_most_its_standard_deviation_and_leaves_air_alone():
    images = torch.full((300, 1, 24, 24), -1.0)
    images[..., 12:] = 0.0
    out, _ = BatchAugment(**{**STILL, "noise": 0.1})(images, generator())
    assert (out[..., :12] == -1).all()
    spread = out[..., 12:].flatten(1).std(dim=1)
    assert float(spread.max()) == pytest.approx(0.1, rel=0.2)
    assert float(spread.mean()) == pytest.approx(0.05, rel=0.2)
