from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, SupervisedEvaluator
from torch import nn
from torch.utils.data import DataLoader

from klip_monai.errors import BundleError, InputError, KlipError
from klip_monai.prior import GaussianDenoiser, load_weights
from klip_monai.training import (
    BestWeights,
    DenoisingLoss,
    EDMLoss,
    ExponentialMovingAverage,
    FixedNoisePrepareBatch,
    GradientClip,
    SeededBatchSampler,
    TimeBudget,
    ValidationReport,
)
from klip_monai.training.handlers import warmup_cosine


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_loss_falls_on_a_toy_set(make_run, toy_slices):
    run = make_run(epochs=40, lr=3e-3)
    noisy, target, _, options = FixedNoisePrepareBatch([0.3, 1.0])({"image": toy_slices().images})

    def loss() -> float:
        with torch.no_grad():
            return float(EDMLoss(0.5)(run.ema.average(noisy, **options), target))

    before = loss()
    run.trainer.run()
    assert loss() < 0.5 * before


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(make_run, stop_at):
    straight = make_run(name="straight")
    straight.trainer.run()
    assert straight.trainer.state.iteration == 6
    broken = make_run(name="broken", stop_at=stop_at)
    broken.trainer.run()
    resumed = make_run(name="broken")
    resumed.trainer.run()
    assert broken.losses + resumed.losses == straight.losses
    assert same_weights(resumed.network, straight.network)
    assert same_weights(resumed.ema.average, straight.ema.average)
    assert not same_weights(resumed.network, resumed.ema.average)


def test_a_finished_run_is_not_repeated(make_run):
    make_run(name="done").trainer.run()
    again = make_run(name="done")
    again.trainer.run()
    assert again.losses == []
    assert again.trainer.state.iteration == 6


def test_a_checkpoint_of_another_network_or_with_code_is_refused(make_run, tmp_path):
    first = make_run(name="other")
    first.trainer.run()
    path = tmp_path / "other" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["objects"]["network"].popitem()
    torch.save(content, path)
    with pytest.raises(BundleError, match="network does not fit"):
        make_run(name="other").trainer.run()
    torch.save({"format": 1, "objects": Path("x")}, path)
    with pytest.raises(BundleError, match="holds code"):
        make_run(name="other").trainer.run()


def test_time_budget_ends_the_run_early_with_a_checkpoint(make_run, tmp_path):
    run = make_run(epochs=10_000, minutes=0.5 / 60, name="timed")
    run.trainer.run()
    assert 0 < run.trainer.state.iteration < 30_000
    saved = torch.load(tmp_path / "timed" / "checkpoint.pt", weights_only=True)
    assert saved["iteration"] == run.trainer.state.iteration
    # The budget drives the decay, so a run that is cut short still ends at the lowest rate.
    assert run.optimizer.param_groups[0]["lr"] < 0.1 * 1e-3


def test_time_of_earlier_parts_counts():
    budget = TimeBudget(1.0)
    budget.load_state_dict({"elapsed_seconds": 45.0})
    assert budget.fraction == pytest.approx(0.75)


def test_moving_average_follows_its_half_life():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = ExponentialMovingAverage(network, half_life=4.0, ramp_up=1.0)
    nn.init.ones_(network.weight)
    for _ in range(4):
        ema.update(100)
    assert float(ema.average.weight) == pytest.approx(0.5)
    ema.update(1)  # a young average has a half-life of one iteration here
    assert float(ema.average.weight) == pytest.approx(0.75)


def test_clipping_bounds_the_gradient(make_run):
    run = make_run(name="clipped")
    clip = GradientClip(run.network, max_norm=1e-3)
    clip.attach(run.trainer)
    norms = []

    @run.trainer.on(IterationEvents.MODEL_COMPLETED)
    def _(engine):
        norms.append(float(nn.utils.get_total_norm(p.grad for p in run.network.parameters() if p.grad is not None)))

    run.trainer.run()
    assert clip.last_norm > 1e-3
    assert max(norms) <= 1.001e-3


def test_a_diverged_run_stops_before_it_spoils_the_weights(make_run):
    run = make_run(name="diverged")

    @run.trainer.on(IterationEvents.FORWARD_COMPLETED)
    def _(engine):
        engine.state.output["pred"] = engine.state.output["pred"] * float("nan")

    with pytest.raises(KlipError, match="diverged at iteration 1"):
        run.trainer.run()
    assert all(bool(value.isfinite().all()) for value in run.network.state_dict().values())


def test_learning_rate_rises_then_falls_to_its_floor():
    options = {"warmup": 10, "floor": 0.1}
    assert warmup_cosine(5, progress=0.0, **options) == pytest.approx(0.5)
    assert warmup_cosine(10, progress=0.0, **options) == pytest.approx(1.0)
    assert warmup_cosine(500, progress=0.5, **options) == pytest.approx(0.55)
    assert warmup_cosine(999, progress=1.0, **options) == pytest.approx(0.1)


def test_data_order_covers_each_epoch_and_restarts_anywhere():
    sampler = SeededBatchSampler(range(7), batch_size=2, seed=3)
    batches = list(itertools.islice(sampler, 9))
    assert len(sampler) == 3
    for epoch in range(3):
        assert len(set(itertools.chain(*batches[3 * epoch : 3 * epoch + 3]))) == 6
    assert batches[:3] != batches[3:6]
    sampler.start_iteration = 4
    assert list(itertools.islice(sampler, 5)) == batches[4:]


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="expected 1 to 7"):
        SeededBatchSampler(range(7), batch_size=8)


def test_validation_reports_a_loss_per_level(tmp_path):
    class White(nn.Module):
        def forward(self, x, sigma):
            return GaussianDenoiser(std=0.5)(x, sigma)

    metric = DenoisingLoss(EDMLoss(0.5))
    report = ValidationReport(metric, path=tmp_path / "validation.jsonl")
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader([{"image": 0.5 * torch.randn(1, 64, 64)} for _ in range(5)], batch_size=2),
        network=White(),
        prepare_batch=FixedNoisePrepareBatch([2.0, 0.1]),
        key_val_metric={"val_loss": metric},
        val_handlers=[report],
        decollate=False,
    )
    evaluator.run()
    evaluator.run()
    first, second = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert first == second
    assert [level for level, _ in first["loss_per_sigma"]] == pytest.approx([0.1, 2.0])
    assert [loss for _, loss in first["loss_per_sigma"]] == pytest.approx([1.0, 1.0], rel=0.05)
    assert evaluator.state.metrics["val_loss"] == pytest.approx(first["loss"])


def test_the_weights_of_the_lowest_held_out_loss_are_kept_also_by_a_resumed_run(tiny_denoiser, tmp_path):
    network, metric = tiny_denoiser(), DenoisingLoss(EDMLoss(0.5))
    best = BestWeights(network, metric, path=tmp_path / "best.safetensors")
    bias = next(network.parameters())

    def validated(handler: BestWeights, loss: float) -> float:
        """What the file holds after a validation of the weight ``loss`` that had this loss."""
        nn.init.constant_(bias, loss)
        metric.per_sigma = {0.1: loss, 1.0: loss}
        handler(Engine(lambda *_: None))
        return float(next(load_weights(handler.path, tiny_denoiser()).parameters()).detach().mean())

    assert validated(best, 0.5) == 0.5
    assert validated(best, 0.25) == 0.25
    assert validated(best, 0.375) == 0.25
    resumed = BestWeights(network, metric, path=best.path)
    resumed.load_state_dict(best.state_dict())
    assert validated(resumed, 0.375) == 0.25
    assert validated(resumed, 0.125) == 0.125


def test_validation_of_the_average_does_not_disturb_training(make_run, tiny_denoiser, toy_slices):
    plain, watched = make_run(name="plain"), make_run(name="watched")
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(toy_slices(4), batch_size=2),
        network=watched.ema.average,
        prepare_batch=FixedNoisePrepareBatch([0.3]),
        key_val_metric={"val_loss": DenoisingLoss(EDMLoss(0.5))},
        decollate=False,
    )
    watched.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: evaluator.run())
    plain.trainer.run()
    watched.trainer.run()
    assert watched.losses == plain.losses
    assert evaluator.state.metrics["val_loss"] > 0
    assert same_weights(plain.ema.average, watched.ema.average)
    assert not same_weights(watched.ema.average, tiny_denoiser())
