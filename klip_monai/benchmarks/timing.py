"""What something costs: CPU time beside wall time, the least of several tries that take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from klip_monai.benchmarks.cost import Cost
from klip_monai.freed_memory import keep_freed_memory

_LEAST_S = 0.02  # a try of something short repeats it for so long, that clock and caller do not count


def least_costs(
    tasks: Mapping[str, Callable[[], object]], *, tries: int, device: torch.device | str = "cpu"
) -> dict[str, Cost]:
    """The least cost of each task.

    Tasks take turns within each try, so that what else the machine does meets all of them alike. The first try, which
    builds what is kept for later ones, is hardly ever the least.

    Args:
        tasks: what to do, by name.
        tries: how often.
        device: where they work.
    """
    least: dict[str, Cost] = {}
    for _ in range(tries):
        for name, task in tasks.items():
            times = max(1, math.ceil(_LEAST_S / max(least[name].wall_s, 1e-9))) if name in least else 1
            cost = cost_of(task, times=times, device=device)
            least[name] = cost.least(least.get(name, cost))
    return least


def cost_of(task: Callable[[], object], *, times: int = 1, device: torch.device | str = "cpu") -> Cost:
    """The mean cost of doing a task several times in a row, in this process."""
    _settle(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        task()
    _settle(device)
    return Cost(time.process_time() - cpu, time.perf_counter() - wall) / times


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Have torch use so many threads; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def as_in_a_pass() -> Iterator[None]:
    """The state in which the inferer lets a core work: one thread, nothing kept for gradients.

    Within the outer autocast, inner ones keep the weights that they have cast.
    """
    keep_freed_memory()
    with torch_threads(1), torch.inference_mode(), torch.autocast("cpu", enabled=False):
        yield


def _settle(device: torch.device | str) -> None:
    """Wait for a GPU, which answers before it is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
