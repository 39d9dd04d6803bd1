"""The thread of a spool's files: work in order, each answered, and a caller that leaves takes nobody with it."""

import threading
from concurrent.futures import CancelledError
from functools import partial

import pytest

from fabmon.spool.thread import FileThread


def test_work_is_done_in_order_and_what_it_raises_belongs_to_its_caller() -> None:
    done: list[int] = []
    with FileThread() as thread:
        for number in range(100):
            thread.post(partial(done.append, number))
        count = thread.ask(lambda: len(done))
        failing = thread.ask(list[int]().pop)
        last = thread.ask(partial(done.append, 100))
        with pytest.raises(IndexError):
            failing.result(5)
        assert (count.result(5), last.result(5)) == (100, None)
    assert done == list(range(101))


def test_what_is_cancelled_before_its_turn_is_not_done_and_what_is_behind_it_is() -> None:
    goes_on = threading.Event()
    done: list[str] = []
    with FileThread() as thread:
        first = thread.ask(goes_on.wait)
        second = thread.ask(lambda: done.append("second"))
        third = thread.ask(lambda: done.append("third"))
        while not first.running():
            pass
        assert (first.cancel(), second.cancel()) == (False, True)
        goes_on.set()
        third.result(5)
        with pytest.raises(CancelledError):
            second.result(5)
    assert done == ["third"]
