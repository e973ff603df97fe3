"""Progress of a command: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_EVERY_SECONDS = 5.0


class Lines(Progress):
    """Progress that says a line every few seconds where no bar can be drawn; what is refused at once says its own."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._said_at = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As rich's; says how far it is."""
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich's; says how far it is."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        if self.console.is_terminal:
            return
        if time.monotonic() - self._said_at >= _EVERY_SECONDS:
            self._said_at = time.monotonic()
            self.console.print(_line(self._tasks[task_id]), highlight=False, markup=False, soft_wrap=True)


def _line(task: Task) -> str:
    """As "scoring: 20 of 78, 41 s left"."""
    if not task.total:
        return task.description
    left = task.time_remaining
    return f"{task.description}: {task.completed:.0f} of {task.total:.0f}" + (f", {left:.0f} s left" if left else "")


def progress_bar(console: Console) -> Progress:
    """Progress on a console, gone when done in a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Lines(*columns, TimeRemainingColumn(), console=console, transient=True)
