"""Pieces of work side by side, each on one core: on a CPU a network is faster so than piece by piece on all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Barrier, Lock, Thread
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_starting = Lock()


@contextmanager
def one_thread_each(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Iterator[tuple[int, Result]]]:
    """Do a piece of work for each item, as many at a time as torch has threads here.

    Within a piece torch has one thread: threads that share a small layer wait for each other more than they work, and
    how sums are cut among them depends on their number. Threads take the next item themselves and end when there is
    none: those of a pool, which wait to be told so, were seen to wait for ever where there are more of them than cores.

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
    left, done = deque(enumerate(items)), SimpleQueue[tuple[int, Result | BaseException, bool]]()
    begun = Barrier(max(1, min(threads, len(items))) + 1)

    def take() -> None:
        torch.get_num_threads()  # or else a thread takes the number for new threads when it first works
        torch.set_num_threads(1)
        begun.wait()
        while True:
            try:
                place, item = left.popleft()
            except IndexError:
                return
            try:
                done.put((place, work(item), True))
            except BaseException as error:
                done.put((place, error, False))

    def results() -> Iterator[tuple[int, Result]]:
        for _ in items:
            place, result, well = done.get()
            if not well:
                assert isinstance(result, BaseException)
                raise result
            yield place, result  # type: ignore[misc]  # what work gives

    workers = [Thread(target=take, daemon=True) for _ in range(begun.parties - 1)]
    with _starting:
        for worker in workers:
            worker.start()
        begun.wait()
        # Also the number that threads of others take when they begin, which those of the pieces have set to 1.
        torch.set_num_threads(threads)
    try:
        yield results()
    finally:
        left.clear()
        for worker in workers:
            worker.join()
        torch.set_num_threads(threads)  # some of torch's libraries have one number for all threads


@contextmanager
def one_after_the_other(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Iterator[tuple[int, Result]]]:
    """The same without threads, for devices that take one piece at a time."""
    yield ((place, work(item)) for place, item in enumerate(items))
