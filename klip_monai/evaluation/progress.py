"""How studies show how far they are."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from klip_monai.slice_batches import Progress as Report


def study_progress() -> Progress:
    """The progress display of a study, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def steps(progress: Progress, task: TaskID) -> Report:
    """What shows the slices of a task that are done."""

    def report(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    return report
