"""Validation of the averaged weights on held-out slices at fixed noise levels."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import Evaluator
from monai.utils import CommonKeys
from rich.console import Console
from rich.table import Table
from torch import nn

from klip_monai.prior.weights import save_weights
from klip_monai.training.loss import EDMLoss


def _prediction_and_target(output: Mapping[str, Any]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """What `DenoisingLoss` reads from the evaluator's output."""
    return output[CommonKeys.PRED], output[CommonKeys.LABEL]


class DenoisingLoss(Metric):
    """Mean weighted denoising loss over slices and noise levels; also kept per level.

    Args:
        loss: the training objective.

    Attributes:
        per_sigma: mean loss of each noise level after a pass, by ascending sigma.
    """

    def __init__(self, loss: EDMLoss) -> None:
        self.loss = loss
        self.per_sigma: dict[float, float] = {}
        super().__init__(output_transform=_prediction_and_target)

    def reset(self) -> None:
        """Forget the losses of the last pass."""
        self._losses: dict[float, list[float]] = defaultdict(list)

    def update(self, output: tuple[torch.Tensor, Mapping[str, torch.Tensor]]) -> None:
        """Note the loss of each slice of a batch: (denoised (B, 1, H, W), target as in `EDMLoss.forward`)."""
        denoised, target = output
        losses = self.loss.per_slice(denoised, target).tolist()
        for sigma, loss in zip(target["sigma"].tolist(), losses, strict=True):
            self._losses[sigma].append(loss)

    def compute(self) -> float:
        """Mean of the levels' mean losses."""
        self.per_sigma = {sigma: sum(values) / len(values) for sigma, values in sorted(self._losses.items())}
        return self.mean

    @property
    def mean(self) -> float:
        """Mean of the levels' mean losses in the last pass."""
        return sum(self.per_sigma.values()) / len(self.per_sigma)


class ValidationReport:
    """Prints the loss of each noise level after a validation, and appends it to a file, one JSON object a line.

    Attach it to the trainer and to the evaluator: the one tells the iteration, the other when there is a result.

    Args:
        metric: the evaluator's metric.
        path: the file; None writes none.
    """

    def __init__(self, metric: DenoisingLoss, *, path: str | Path | None = None) -> None:
        self.metric = metric
        self.path = None if path is None else Path(path)
        self.console = Console(highlight=False)
        self.iteration: int | None = None

    def attach(self, engine: Engine) -> None:
        """Follow a trainer's iterations, or report when an evaluator completes."""
        if isinstance(engine, Evaluator):
            engine.add_event_handler(Events.COMPLETED, self)
        else:
            engine.add_event_handler(Events.ITERATION_STARTED, self._note_iteration)

    def __call__(self, engine: Engine) -> None:
        """Print, and append if there is a file."""
        mean = self.metric.mean
        table = Table(title=f"validation loss at iteration {self.iteration}: mean {mean:.4f}")
        for sigma in self.metric.per_sigma:
            table.add_column(f"{sigma:.3g}", justify="right")
        table.add_row(*(f"{loss:.4f}" for loss in self.metric.per_sigma.values()))
        self.console.print(table)
        if self.path is not None:
            record = {"iteration": self.iteration, "loss": mean, "loss_per_sigma": list(self.metric.per_sigma.items())}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _note_iteration(self, engine: Engine) -> None:
        self.iteration = engine.state.iteration


class BestWeights:
    """Saves the validated weights whenever their loss is the lowest so far.

    A prior of few people learns them by heart in the end, and then held-out slices lose again; what is released is the
    prior before that. Attach it to the evaluator, and save it with the checkpoint.

    Args:
        network: what is validated.
        metric: the evaluator's metric.
        path: ``.safetensors`` file.
    """

    def __init__(self, network: nn.Module, metric: DenoisingLoss, *, path: str | Path) -> None:
        self.network = network
        self.metric = metric
        self.path = Path(path)
        self.loss = math.inf

    def attach(self, engine: Engine) -> None:
        """Act when the evaluator completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _: Engine) -> None:
        """Save the weights if they are the best so far; raises `OutputError` if that fails."""
        loss = self.metric.mean
        if loss < self.loss:
            save_weights(self.path, self.network)
            self.loss = loss

    def state_dict(self) -> dict[str, float]:
        """The lowest loss so far."""
        return {"loss": self.loss}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a `state_dict`."""
        self.loss = state["loss"]
