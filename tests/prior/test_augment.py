from __future__ import annotations

import pytest
import torch

from klip_monai.prior import BatchAugment

STILL = {"rotation": 0.0, "scale": 0.0, "translation": 0.0, "contrast": 0.0, "probability": 1.0}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def disc(height: int = 48, width: int = 64) -> torch.Tensor:
    rows, columns = torch.arange(height)[:, None] - height / 2 + 0.5, torch.arange(width) - width / 2 + 0.5
    return (((rows**2 + columns**2).sqrt() - 12) * -1).tanh().expand(6, 1, height, width)


def test_no_motion_leaves_the_slices():
    images = disc()
    torch.testing.assert_close(BatchAugment(**STILL)(images, generator()), images, rtol=0, atol=1e-5)


def test_values_stay_in_range_and_air_stays_air():
    images = disc().clone()
    images[images < 0] = -1
    out = BatchAugment(contrast=0.2)(images, generator())
    assert float(out.min()) == -1
    assert float(out.max()) <= 1
    assert (out[..., :2, :] == -1).all()


def test_rotation_keeps_a_disc_round_on_an_oblong_grid():
    images = disc()
    out = BatchAugment(**{**STILL, "rotation": 90.0})(images, generator())
    torch.testing.assert_close(out, images, rtol=0, atol=0.1)


def test_translation_is_in_pixels():
    out = BatchAugment(**{**STILL, "translation": 5.0})(disc(), generator())
    mass = out[:, 0] + 1
    rows = (mass.sum(2) * torch.arange(48)).sum(1) / mass.sum((1, 2)) - 23.5
    columns = (mass.sum(1) * torch.arange(64)).sum(1) / mass.sum((1, 2)) - 31.5
    draws = 2 * torch.rand(6, 6, generator=generator()) - 1
    torch.testing.assert_close(rows, -5 * draws[2], rtol=0, atol=0.1)
    torch.testing.assert_close(columns, -5 * draws[3], rtol=0, atol=0.1)


def test_unmoved_share_keeps_its_sampling():
    images = torch.rand(400, 1, 8, 8) * 2 - 1
    out = BatchAugment(contrast=0.0, probability=0.25)(images, generator())
    unmoved = (out - images).abs().amax((1, 2, 3)) < 1e-5
    assert float(unmoved.float().mean()) == pytest.approx(0.75, abs=0.08)
