from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader

from klip_monai.errors import InputError
from klip_monai.prior import PatchDenoiser, UNetDenoiser
from klip_monai.prior.patches import AIR
from klip_monai.training import (
    BatchAugment,
    EDMLoss,
    ExponentialMovingAverage,
    FixedNoisePrepareBatch,
    GradientClip,
    PatchPrepareBatch,
    SeededBatchSampler,
    TrainingCheckpoint,
)

ONE_SIZE = {"sizes": [8], "probabilities": [1.0]}


def position_picture(side: int = 12, patch: int = 8) -> torch.Tensor:
    """A slice whose values are the normalised row of each pixel in the padded slice, over 10, and never air."""
    padded = (side // patch + 1) * patch * 2 - side
    first = (padded - side) / 2
    rows = (torch.arange(side) + first + 0.5) * 2 / padded - 1
    return (rows[:, None] / 10).expand(1, 1, side, side).clone()


def test_patches_are_cut_where_their_box_says():
    prepare = PatchPrepareBatch(**ONE_SIZE, patches=50, p_mean=-20.0, p_std=0.0)
    noisy, target, _, options = prepare({"image": position_picture()})
    box, clean = options["box"], target["image"][:, 0]
    assert clean.shape == (50, 8, 8)
    inside = (torch.arange(8) + 0.5) / 8
    expected = torch.lerp(box[:, :1], box[:, 2:3], inside)[:, :, None].expand_as(clean) / 10
    known = clean != AIR
    torch.testing.assert_close(clean[known], expected[known], rtol=0, atol=1e-5)
    assert 0.3 < float(known.float().mean()) < 1
    torch.testing.assert_close(noisy[:, 0], clean, rtol=0, atol=1e-6)


def test_patches_lie_anywhere_in_the_padded_slice():
    box = PatchPrepareBatch(**ONE_SIZE, patches=3000)({"image": position_picture()})[3]["box"]
    # 12 pixels and a slack of 4 on each side: 13 corners along each axis, 20 pixels in all.
    corners, times = ((box[:, 0] + 1) / 2 * 20).round().unique(return_counts=True)
    assert corners.tolist() == list(range(13))
    assert times.min() > 0.6 * times.float().mean()
    assert box.min() == -1
    torch.testing.assert_close(box.max(), torch.tensor(1.0))


def test_the_padding_is_air_without_noise_and_has_no_part_in_the_loss():
    noisy, target, _, _ = PatchPrepareBatch(**ONE_SIZE, patches=40)({"image": position_picture()})
    outside = target["image"] == AIR
    assert (target["weight"][outside] == 0).all()
    assert (target["weight"][~outside] == 1).all()
    assert (noisy[outside] == AIR).all()
    noise = ((noisy - target["image"]) / target["sigma"][:, None, None, None])[~outside]
    assert float(noise.std()) == pytest.approx(1.0, abs=0.05)
    wrong = torch.where(outside, 5.0, target["image"])
    assert float(EDMLoss(0.5)(wrong, target)) == 0


def test_weights_are_cut_with_the_patches_and_every_slice_gives_its_share():
    images = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 8, 8).clone()
    weight = (images + 1) / 10
    target = PatchPrepareBatch(**ONE_SIZE, patches=5)({"image": images, "weight": weight})[1]
    known = target["image"] != AIR
    torch.testing.assert_close(target["weight"][known], (target["image"][known] + 1) / 10)
    owners = target["image"].amax((1, 2, 3))
    assert ((owners == torch.arange(3.0).repeat_interleave(5)) | (owners == AIR)).all()


def test_sizes_are_mixed_as_asked_with_the_same_number_of_pixels():
    prepare = PatchPrepareBatch([16, 8, 4], patches=2)
    shapes = [tuple(prepare({"image": torch.zeros(3, 1, 20, 20)})[0].shape) for _ in range(300)]
    assert set(shapes) == {(6, 1, 16, 16), (24, 1, 8, 8), (96, 1, 4, 4)}
    shares = [shapes.count(shape) / 300 for shape in [(6, 1, 16, 16), (24, 1, 8, 8), (96, 1, 4, 4)]]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.08)


def test_restored_state_cuts_the_same_again():
    prepare, batch = PatchPrepareBatch([8, 4], [0.5, 0.5], augment=BatchAugment()), {"image": position_picture()}
    prepare(batch)
    state = prepare.state_dict()
    draws = [prepare(batch) for _ in range(4)]
    again = PatchPrepareBatch([8, 4], [0.5, 0.5], augment=BatchAugment(), seed=3)
    again.load_state_dict(state)
    for noisy, _, _, options in draws:
        noisy_again, _, _, options_again = again(batch)
        assert torch.equal(noisy_again, noisy)
        assert torch.equal(options_again["box"], options["box"])


@pytest.mark.parametrize(
    "options", [{"sizes": [8, 4]}, {"sizes": []}, {**ONE_SIZE, "patches": 0}, {"sizes": [4, 8, 2]}]
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(InputError, match="largest size first"):
        PatchPrepareBatch(**options)


@pytest.fixture
def make_patch_run(tmp_path, toy_slices):
    """A patch prior's training run as the bundle wires it: trainer, its losses, and the averaged network."""

    def make(*, epochs: int, name: str, lr: float = 1e-3, stop_at: int | None = None):
        torch.manual_seed(0)
        network = PatchDenoiser(UNetDenoiser([8, 8], [8, 16], num_head_channels=8, norm_num_groups=4))
        dataset = toy_slices()
        sampler = SeededBatchSampler(dataset, batch_size=5, seed=4)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
        ema = ExponentialMovingAverage(network, half_life=2.0)
        prepare = PatchPrepareBatch([8, 4], [0.6, 0.4], patches=4, seed=9, augment=BatchAugment())
        objects = {"network": network, "ema": ema, "optimizer": optimizer, "prepare_batch": prepare}
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=DataLoader(dataset, batch_sampler=sampler),
            network=network,
            optimizer=optimizer,
            loss_function=EDMLoss(network.unet.sigma_data),
            prepare_batch=prepare,
            train_handlers=[
                ema,
                GradientClip(network),
                TrainingCheckpoint(tmp_path / name / "checkpoint.pt", objects, batch_sampler=sampler),
            ],
            decollate=False,
        )
        losses: list[float] = []

        @trainer.on(Events.ITERATION_COMPLETED)
        def _(engine):
            losses.append(float(engine.state.output["loss"].detach()))
            if engine.state.iteration == stop_at:
                engine.terminate()

        return trainer, losses, ema.average

    return make


def test_training_on_patches_teaches_the_prior_whole_slices(make_patch_run, toy_slices):
    trainer, _, average = make_patch_run(epochs=20, name="learns", lr=5e-3)
    noisy, target, _, options = FixedNoisePrepareBatch([0.3, 1.0])({"image": toy_slices().images})

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            return float(EDMLoss(0.5)(network(noisy, **options), target))

    before = loss(average)
    trainer.run()
    assert loss(average) < 0.6 * before


def test_a_resumed_run_equals_an_uninterrupted_one(make_patch_run):
    straight, losses, weights = make_patch_run(epochs=3, name="straight")
    straight.run()
    broken, first, _ = make_patch_run(epochs=3, name="broken", stop_at=3)
    broken.run()
    resumed, second, resumed_weights = make_patch_run(epochs=3, name="broken")
    resumed.run()
    assert len(losses) == 6
    assert first + second == losses
    pairs = zip(weights.state_dict().values(), resumed_weights.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
