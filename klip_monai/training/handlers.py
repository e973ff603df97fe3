"""Small event handlers that turn MONAI's SupervisedTrainer into a diffusion trainer."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.utils import CommonKeys
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from klip_monai.errors import InputError, KlipError


class ExponentialMovingAverage:
    """Averages the weights over iterations; the average is what is validated and released.

    After iteration i the average moves by 1 - 0.5^(1/h) towards the weights, with h = min(half_life, ramp_up * i):
    a young average forgets its random start (Karras et al. 2022, appendix F.2).

    Args:
        network: the network being trained, already on its device.
        half_life: iterations after which a weight counts half.
        ramp_up: half-life as a share of the iterations so far, while that is shorter.

    Attributes:
        average: a copy of the network with averaged weights, in evaluation mode.
    """

    def __init__(self, network: nn.Module, *, half_life: float, ramp_up: float = 0.05) -> None:
        if half_life <= 0 or ramp_up <= 0:
            raise InputError(f"half_life, ramp_up: got {half_life} and {ramp_up}, expected positive numbers.")
        self.network = network
        self.half_life = half_life
        self.ramp_up = ramp_up
        self.average = copy.deepcopy(network).eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        """Update after every iteration of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.update(engine.state.iteration))

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move the average towards the weights after ``iteration`` (1-based)."""
        step = 1 - 0.5 ** (1 / min(self.half_life, self.ramp_up * iteration))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), step)
        for mean, value in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up averaged weights from `state_dict`."""
        self.average.load_state_dict(state)


class GradientClip:
    """Clips the gradient's norm before each step, and stops a run whose loss or gradient is not finite.

    It raises before the optimizer steps, so the last checkpoint holds finite weights.

    Args:
        network: the network being trained.
        max_norm: largest norm of the gradient over all weights.

    Attributes:
        last_norm: the gradient's norm before the last clipping.
    """

    def __init__(self, network: nn.Module, *, max_norm: float = 1.0) -> None:
        if max_norm <= 0:
            raise InputError(f"max_norm: got {max_norm}, expected a positive number.")
        self.network = network
        self.max_norm = max_norm
        self.last_norm = math.nan

    def attach(self, engine: Engine) -> None:
        """Act between backward and step; the norm before clipping is left in ``last_norm``."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip, or raise `KlipError` when the loss or the gradient is not finite."""
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        # Both at once: a GPU has to be waited for only once.
        norm, loss = torch.stack([gradient, engine.state.output[CommonKeys.LOSS].detach()]).tolist()  # type: ignore[index]
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise KlipError(
                f"training diverged at iteration {engine.state.iteration}: got loss {loss} and gradient norm {norm}, "
                "expected finite numbers; run again from the last checkpoint with a lower learning rate."
            )
        self.last_norm = norm


class TimeBudget:
    """Stops a run after the current iteration once its time is used up; the run then ends as if it were complete.

    The time of earlier, resumed parts counts: it is saved and restored with `state_dict`. In a distributed run the
    first process decides, so that all stop after the same iteration.

    Args:
        minutes: time for the whole run.
    """

    def __init__(self, minutes: float) -> None:
        if minutes <= 0:
            raise InputError(f"minutes: got {minutes}, expected a positive time.")
        self.seconds = 60.0 * minutes
        self._before = 0.0
        self._started: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds used so far, including earlier parts of the run."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    @property
    def fraction(self) -> float:
        """Share of the time used so far, at most 1."""
        return min(1.0, self.elapsed / self.seconds)

    def attach(self, engine: Engine) -> None:
        """Start the clock with the run and check it after every iteration."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)
        engine.add_event_handler(Events.COMPLETED, self._stop)

    def state_dict(self) -> dict[str, float]:
        """Seconds used so far."""
        return {"elapsed_seconds": self.elapsed}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Count the seconds of an earlier part of the run."""
        self._before = state["elapsed_seconds"]

    def _start(self, _: Engine) -> None:
        self._started = time.monotonic()

    def _check(self, engine: Engine) -> None:
        over = torch.tensor(float(self.elapsed >= self.seconds))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            over = over.to(engine.state.device)  # type: ignore[attr-defined]
            torch.distributed.broadcast(over, src=0)
        if over:
            engine.terminate()

    def _stop(self, _: Engine) -> None:
        self._before, self._started = self.elapsed, None


def warmup_cosine(iteration: int, *, progress: float, warmup: int, floor: float) -> float:
    """Factor on the peak learning rate: linear over ``warmup`` iterations, then a cosine in ``progress`` to ``floor``.

    Args:
        iteration: current iteration, 1-based.
        progress: share of the run that is done, 0 to 1.
        warmup: iterations until the peak.
        floor: factor at the end of the run.

    Returns:
        Factor in (0, 1].
    """
    rise = min(1.0, iteration / max(1, warmup))
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class LearningRate:
    """Sets the learning rate before every iteration from the run's progress alone, so there is nothing to resume.

    Progress is the share of iterations done or, if larger, the share of the time budget used. With a budget the rate
    depends on the machine's speed, so such a run ends well annealed but is not repeatable to the bit.

    Args:
        optimizer: its learning rates are scaled; those given to it are the peaks.
        warmup: iterations of linear rise.
        floor: factor reached at the end.
        budget: the run's time budget; None for iterations only.
    """

    def __init__(
        self, optimizer: Optimizer, *, warmup: int = 500, floor: float = 0.01, budget: TimeBudget | None = None
    ) -> None:
        self.optimizer = optimizer
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.warmup = warmup
        self.floor = floor
        self.budget = budget

    def attach(self, engine: Engine) -> None:
        """Act before every iteration of ``engine``."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the rate of the iteration about to run."""
        iteration = engine.state.iteration
        progress = max((iteration - 1) / total_iterations(engine), self.budget.fraction if self.budget else 0.0)
        factor = warmup_cosine(iteration, progress=progress, warmup=self.warmup, floor=self.floor)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor


class ProgressReport:
    """Prints iteration, rate, mean loss, learning rate and time left, one line at a time, on terminals and in logs.

    Args:
        optimizer: the one whose learning rate is shown.
        every_seconds: seconds between lines.
        budget: the run's time budget, for the time left.
    """

    def __init__(self, optimizer: Optimizer, *, every_seconds: float = 15.0, budget: TimeBudget | None = None) -> None:
        self.optimizer = optimizer
        self.every_seconds = every_seconds
        self.budget = budget
        self.console = Console(highlight=False)
        self._losses: list[torch.Tensor] = []
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Report during the run and once at its end."""
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def __call__(self, engine: Engine) -> None:
        """Note the loss, and report when it is time."""
        self._losses.append(engine.state.output[CommonKeys.LOSS].detach())  # type: ignore[index]
        if time.monotonic() - self._since >= self.every_seconds:
            self._report(engine)

    def _reset(self, _: Engine) -> None:
        self._losses, self._since = [], time.monotonic()

    def _report(self, engine: Engine) -> None:
        """Print one line about the iterations since the last one."""
        if not self._losses:
            return
        rate = len(self._losses) / max(1e-9, time.monotonic() - self._since)
        left = (total_iterations(engine) - engine.state.iteration) / rate
        if self.budget is not None:
            left = min(left, self.budget.seconds - self.budget.elapsed)
        self.console.print(
            f"iteration {engine.state.iteration}/{total_iterations(engine)}  {rate:.2f}/s  "
            f"loss {float(torch.stack(self._losses).mean()):.4f}  lr {self.optimizer.param_groups[0]['lr']:.2e}  "
            f"left {timedelta(seconds=max(0, round(left)))}"
        )
        self._reset(engine)


def total_iterations(engine: Engine) -> int:
    """Iterations of the whole run: epochs times batches per epoch."""
    return (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
