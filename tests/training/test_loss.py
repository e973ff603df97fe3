from __future__ import annotations

import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.prior import GaussianDenoiser
from klip_monai.training import EDMLoss, EDMPrepareBatch, FixedNoisePrepareBatch


def test_weighted_loss_of_the_exact_denoiser_is_one_at_every_level():
    # E|D - x0|^2 = sigma^2 sd^2/(sigma^2 + sd^2) is the inverse of the weight.
    clean = 0.5 * torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    noisy, target, _, options = FixedNoisePrepareBatch([0.05, 0.5, 5.0], seed=1)({"image": clean})
    loss = EDMLoss(0.5).per_slice(GaussianDenoiser(std=0.5)(noisy, **options), target)
    torch.testing.assert_close(loss, torch.ones(12), rtol=0.05, atol=0)


def test_noise_levels_are_log_normal_and_the_noise_has_their_size():
    prepare = EDMPrepareBatch(-1.0, 0.8, seed=3)
    noisy, target, _, options = prepare({"image": torch.zeros(4000, 1, 4, 4)})
    assert target["sigma"] is options["sigma"]
    log = target["sigma"].log()
    assert float(log.mean()) == pytest.approx(-1.0, abs=0.05)
    assert float(log.std()) == pytest.approx(0.8, abs=0.05)
    assert float((noisy / target["sigma"][:, None, None, None]).std()) == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(target["image"], torch.zeros(4000, 1, 4, 4))


def test_restored_state_draws_the_same_again():
    prepare, batch = EDMPrepareBatch(seed=1), {"image": torch.zeros(2, 1, 4, 4)}
    prepare(batch)
    state = prepare.state_dict()
    first, again = prepare(batch)[0], EDMPrepareBatch(seed=2)
    again.load_state_dict(state)
    assert torch.equal(again(batch)[0], first)
    assert not torch.equal(prepare(batch)[0], first)


def test_validation_noise_is_the_same_every_time_and_at_every_level():
    prepare, clean = FixedNoisePrepareBatch([0.1, 2.0], seed=1), torch.randn(3, 1, 4, 4)
    noisy, target, _, _ = prepare({"image": clean})
    assert torch.equal(noisy, prepare({"image": clean})[0])
    torch.testing.assert_close(target["sigma"], torch.tensor([0.1] * 3 + [2.0] * 3))
    torch.testing.assert_close((noisy[:3] - clean) / 0.1, (noisy[3:] - clean) / 2.0, rtol=1e-3, atol=1e-3)


def test_validation_without_levels_is_refused():
    with pytest.raises(InputError, match="at least one noise level"):
        FixedNoisePrepareBatch([])


def test_pixels_of_unknown_value_have_no_part_in_the_loss():
    clean, weight = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    weight[..., 2:] = 0
    wrong = clean.clone()
    wrong[..., 2:] = 9.0
    target = {"image": clean, "sigma": torch.ones(2), "weight": weight}
    assert float(EDMLoss(0.5)(wrong, target)) == 0
    assert float(EDMLoss(0.5)(wrong, {"image": clean, "sigma": torch.ones(2)})) > 1


def test_weights_reach_the_target_of_training_and_validation():
    batch = {"image": torch.zeros(2, 1, 4, 4), "weight": torch.eye(4).expand(2, 1, 4, 4)}
    for prepare, n in ((EDMPrepareBatch(seed=0), 2), (FixedNoisePrepareBatch([0.1, 1.0]), 4)):
        target = prepare(batch)[1]
        assert torch.equal(target["weight"], torch.eye(4).expand(n, 1, 4, 4))
