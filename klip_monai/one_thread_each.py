"""Pieces of work side by side, each on one core: on a CPU a network is faster so than piece by piece on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from threading import Barrier, Lock
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_starting = Lock()


@contextmanager
def one_thread_each(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Iterator[tuple[int, Result]]]:
    """Do a piece of work for each item, as many at a time as torch has threads here.

    Within a piece torch has one thread: threads that share a small layer wait for each other more than they work, and
    how sums are cut among them depends on their number.

    Args:
        work: what to do; called in threads.
        items: what to do it with.

    Yields:
        Place and result of each item, in the order in which they are done; what a piece raises is raised there. Leaving
        the context waits for pieces that have begun, and does not begin others.
    """
    if not items:
        yield iter(())
        return
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(items)))
    begun = Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, initializer=_one_thread, initargs=(begun,))
    try:
        with _starting:
            places = {pool.submit(work, item): place for place, item in enumerate(items)}
            begun.wait()
            # Also the number that threads of others take when they begin, which those of the pool have set to 1.
            torch.set_num_threads(threads)
        yield ((places[done], done.result()) for done in as_completed(places))
    finally:
        begun.abort()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # some of torch's libraries have one number for all threads


def _one_thread(begun: Barrier) -> None:
    torch.get_num_threads()  # or else a thread takes the number for new threads when it first works
    torch.set_num_threads(1)
    begun.wait()


@contextmanager
def one_after_the_other(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Iterator[tuple[int, Result]]]:
    """The same without threads, for devices that take one piece at a time."""
    yield ((place, work(item)) for place, item in enumerate(items))
