"""Checkpoints from which a run continues as if it had never stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events

from klip_monai.errors import BundleError, InputError, OutputError
from klip_monai.prior.files import read_plain, write_whole
from klip_monai.training.batches import SeededBatchSampler

_FORMAT = 1
_logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything that torch's modules and optimizers and our handlers have in common."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings and containers of them."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take up what `state_dict` gave."""
        ...


class TrainingCheckpoint:
    """Saves everything a run depends on every few minutes and at its end, and takes it up when a run starts.

    Files are written beside their place and moved there, so a crash never leaves half a checkpoint, and are read with
    ``weights_only``: no code in them is ever executed. On the CPU a resumed run equals an uninterrupted one bit by bit.

    Args:
        path: the checkpoint file.
        objects: what to save, by name: network, moving average, optimizer, prepare_batch, time budget.
        batch_sampler: the training loader's sampler, moved to the iteration that is next.
        every_minutes: minutes between checkpoints.
        every_iterations: iterations between checkpoints, besides those by time; None for by time only.
        resume: take up ``path`` if it exists; otherwise an existing file is refused rather than overwritten.

    Raises:
        InputError: if an interval is not positive.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Stateful],
        *,
        batch_sampler: SeededBatchSampler,
        every_minutes: float = 10.0,
        every_iterations: int | None = None,
        resume: bool = True,
    ) -> None:
        if every_minutes <= 0 or (every_iterations is not None and every_iterations <= 0):
            raise InputError(
                f"every_minutes, every_iterations: got {every_minutes} and {every_iterations}, expected numbers > 0."
            )
        self.path = Path(path)
        self.objects = dict(objects)
        self.batch_sampler = batch_sampler
        self.every_minutes = every_minutes
        self.every_iterations = every_iterations
        self.resume = resume
        self._saved_at = 0.0

    def attach(self, engine: Engine) -> None:
        """Resume when ``engine`` starts; save during its run and at its end.

        Attach it after the handlers whose state it saves, so that it sees what they did in an iteration.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_if_due)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint now.

        Raises:
            OutputError: if the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "objects": {name: item.state_dict() for name, item in self.objects.items()},
        }
        write_whole(self.path, lambda draft: torch.save(content, draft))
        self._saved_at = time.monotonic()

    def load(self, engine: Engine) -> None:
        """Take up the checkpoint: every object, and the iteration at which ``engine`` continues.

        Raises:
            BundleError: if the file is damaged, holds code, or belongs to another run.
        """
        content = self._read()
        if content["epoch_length"] != engine.state.epoch_length or content["objects"].keys() != self.objects.keys():
            raise BundleError(
                f"checkpoint {self.path}: got {content['epoch_length']} batches, {sorted(content['objects'])}; "
                f"expected {engine.state.epoch_length}, {sorted(self.objects)}; use the run's own configuration."
            )
        for name, item in self.objects.items():
            try:
                item.load_state_dict(content["objects"][name])
            except (RuntimeError, ValueError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise BundleError(
                    f"checkpoint {self.path}: {name} does not fit ({reason}); use the configuration it was made with."
                ) from error
        engine.state.iteration = content["iteration"]
        engine.state.epoch = content["iteration"] // content["epoch_length"]
        _logger.info("resumed from %s at iteration %d", self.path, engine.state.iteration)

    def _read(self) -> dict[str, Any]:
        """The file's content, read without executing anything in it."""
        content = read_plain(self.path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise BundleError(f"checkpoint {self.path}: not made by this version; delete it to start anew.")
        return content

    def _start(self, engine: Engine) -> None:
        self._saved_at = time.monotonic()
        if engine.state.iteration == 0 and self.path.exists():
            if not self.resume:
                raise OutputError(f"path: got the existing checkpoint {self.path}; set resume or choose another path.")
            self.load(engine)
        self.batch_sampler.start_iteration = engine.state.iteration

    def _save_if_due(self, engine: Engine) -> None:
        by_count = self.every_iterations is not None and engine.state.iteration % self.every_iterations == 0
        if by_count or time.monotonic() - self._saved_at >= 60 * self.every_minutes:
            self.save(engine)
