from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from klip_monai.one_thread_each import one_after_the_other, one_thread_each


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("way", [one_thread_each, one_after_the_other])
def test_each_item_is_worked_on_once(way):
    with way(lambda item: item * item, [3, 1, 2]) as each:
        assert dict(each) == {0: 9, 1: 1, 2: 4}
    with way(lambda item: item, []) as each:
        assert list(each) == []


def test_a_piece_has_one_thread_and_everyone_else_theirs():
    seen, begun, go_on = [], threading.Event(), threading.Event()

    def work(_: int) -> None:
        seen.append(torch.get_num_threads())
        begun.set()
        assert go_on.wait(20)

    with one_thread_each(work, range(4)) as each:
        assert begun.wait(20)
        assert (torch.get_num_threads(), in_a_new_thread()) == (2, 2), "while others work"
        go_on.set()
        assert len(list(each)) == 4
    assert seen == [1] * 4
    assert (torch.get_num_threads(), in_a_new_thread()) == (2, 2)


def test_an_error_leaves_the_threads_as_they_were():
    def fail(_: int) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), one_thread_each(fail, range(3)) as each:
        list(each)
    assert (torch.get_num_threads(), in_a_new_thread()) == (2, 2)
