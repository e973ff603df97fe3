from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch.utils.data import DataLoader, Dataset

from klip_monai.prior import UNetDenoiser
from klip_monai.training import (
    BatchAugment,
    EDMLoss,
    EDMPrepareBatch,
    ExponentialMovingAverage,
    GradientClip,
    LearningRate,
    SeededBatchSampler,
    TimeBudget,
    TrainingCheckpoint,
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ToySlices(Dataset[dict[str, torch.Tensor]]):
    """Discs of random radius and position: a distribution a tiny network can learn."""

    def __init__(self, length: int = 10, side: int = 16) -> None:
        axis = torch.linspace(-1, 1, side)
        draws = torch.rand(length, 3, generator=torch.Generator().manual_seed(5))
        distance = [((axis[:, None] - r / 2) ** 2 + (axis - c / 2) ** 2).sqrt() for r, c, _ in draws]
        self.images = torch.stack(distance).sub(0.3 + 0.4 * draws[:, 2, None, None]).mul(-8).tanh()[:, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[index]}


@pytest.fixture
def toy_slices() -> type[ToySlices]:
    return ToySlices


@dataclass
class Run:
    trainer: SupervisedTrainer
    network: UNetDenoiser
    ema: ExponentialMovingAverage
    optimizer: torch.optim.Optimizer
    losses: list[float]


@pytest.fixture
def make_run(tmp_path: Path, tiny_denoiser: Callable[..., UNetDenoiser]) -> Callable[..., Run]:
    """A complete training run as the bundle wires it, small enough to take milliseconds an iteration."""

    def make(
        *,
        epochs: int = 2,
        minutes: float | None = None,
        name: str = "run",
        lr: float = 1e-3,
        stop_at: int | None = None,
    ) -> Run:
        dataset, network = ToySlices(), tiny_denoiser()
        sampler = SeededBatchSampler(dataset, batch_size=3, seed=4)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
        ema = ExponentialMovingAverage(network, half_life=2.0)
        prepare = EDMPrepareBatch(seed=9, augment=BatchAugment())
        budget = None if minutes is None else TimeBudget(minutes)
        objects = {"network": network, "ema": ema, "optimizer": optimizer, "prepare_batch": prepare}
        handlers = [
            ema,
            *([] if budget is None else [budget]),
            LearningRate(optimizer, warmup=2, budget=budget),
            GradientClip(network),
            TrainingCheckpoint(tmp_path / name / "checkpoint.pt", objects, batch_sampler=sampler),
        ]
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=DataLoader(dataset, batch_sampler=sampler),
            network=network,
            optimizer=optimizer,
            loss_function=EDMLoss(network.sigma_data),
            prepare_batch=prepare,
            train_handlers=handlers,
            decollate=False,
        )
        losses: list[float] = []

        def note(engine: SupervisedTrainer) -> None:
            losses.append(float(engine.state.output["loss"].detach()))
            if engine.state.iteration == stop_at:
                engine.terminate()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
        return Run(trainer, network, ema, optimizer, losses)

    return make
