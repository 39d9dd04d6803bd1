"""The thread of a spool's files: work in order, each answered, and a caller that leaves takes nobody with it."""

import asyncio
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from fabmon.errors import StartError
from fabmon.spool import spool as spool_module
from fabmon.spool.disk import Disk
from fabmon.spool.spool import open_spool
from fabmon.spool.thread import FileThread
from tests.unit.test_spool import LIMIT, contents, raws


async def test_work_is_done_in_order_and_what_it_raises_belongs_to_its_caller() -> None:
    done: list[int] = []
    async with FileThread() as thread:
        for number in range(100):
            thread.post(partial(done.append, number))
        count = thread.ask(lambda: len(done))
        failing = thread.ask(list[int]().pop)
        last = thread.ask(partial(done.append, 100))
        with pytest.raises(IndexError):
            failing.result(5)
        assert (count.result(5), last.result(5)) == (100, None)
    assert done == list(range(101))


async def test_what_is_cancelled_before_its_turn_is_not_done_and_what_is_behind_it_is() -> None:
    goes_on = threading.Event()
    done: list[str] = []
    async with FileThread() as thread:
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


async def test_a_bug_costs_what_is_behind_it_nothing_and_who_comes_too_late_is_told() -> None:
    async with FileThread() as thread:
        thread.post([].pop)
        assert thread.ask(lambda: "done").result(5) == "done"
    with pytest.raises(RuntimeError, match="closed"):
        thread.ask(lambda: "too late")


async def test_a_blank_that_fails_beyond_the_disk_stops_nothing(tmp_path: Path) -> None:
    class NoMemory(Disk):
        def write_at(self, descriptor: int, block: bytes | memoryview, offset: int) -> None:
            if bytes(block).isspace():
                raise MemoryError
            super().write_at(descriptor, block, offset)

    async with open_spool(tmp_path, LIMIT, NoMemory()) as spool:
        for number in range(5):
            await spool.append(raws(1, number))
        assert await contents(spool) == raws(5)
        last = asyncio.ensure_future(spool.append(raws(1, 5)))
    await last
    with pytest.raises(RuntimeError, match="closed"):
        spool.append(raws(1))
    async with open_spool(tmp_path, LIMIT) as spool:
        assert await contents(spool) == raws(6)


async def test_a_disk_that_hangs_holds_up_the_end_and_not_the_event_loop(tmp_path: Path) -> None:
    """So a second signal is still heard."""
    goes_on = threading.Event()

    class Hanging(Disk):
        def fsync(self, descriptor: int) -> None:
            if kept:
                goes_on.wait(30)
            super().fsync(descriptor)

    async def hold() -> None:
        async with open_spool(tmp_path, LIMIT, Hanging()) as spool:
            kept.append(spool.append(raws(1)))

    kept: list[asyncio.Future[None]] = []
    holding = asyncio.create_task(hold())
    await asyncio.sleep(0.2)
    assert (len(kept), kept[0].done(), holding.done()) == (1, False, False)
    goes_on.set()
    await asyncio.wait_for(holding, 10)
    await kept[0]


async def test_the_directory_is_held_until_the_last_of_the_work_also_when_nobody_waits_for_it(tmp_path: Path) -> None:
    goes_on = threading.Event()
    held = asyncio.Event()

    class Hanging(Disk):
        def fsync(self, descriptor: int) -> None:
            if held.is_set():
                goes_on.wait(30)
            super().fsync(descriptor)

    async def hold() -> None:
        async with open_spool(tmp_path, LIMIT, Hanging()) as spool:
            held.set()
            spool.append(raws(1))

    holding = asyncio.create_task(hold())
    await held.wait()
    await asyncio.sleep(0.1)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    with pytest.raises(StartError, match="in use"):
        async with open_spool(tmp_path, LIMIT):
            pass
    goes_on.set()
    async with asyncio.timeout(10):
        while True:
            with suppress(StartError):
                async with open_spool(tmp_path, LIMIT) as spool:
                    assert await contents(spool) == raws(1)
                    return
            await asyncio.sleep(0.02)


async def test_a_group_takes_so_many_events_and_all_of_them_are_kept_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_GROUP_EVENTS", 5)
    groups: list[int] = []

    class Counting(Disk):
        def write(self, descriptor: int, block: bytes | memoryview) -> None:
            if count := bytes(block).count(b'{"n":'):
                groups.append(count)
            super().write(descriptor, block)

    async with open_spool(tmp_path, LIMIT, Counting()) as spool:
        waiting = [spool.append(raws(3, 3 * number)) for number in range(20)]
        acknowledged = asyncio.create_task(spool.acknowledge(3))  # what else is asked for gets its turn in between
        await asyncio.gather(*waiting, acknowledged)
        assert (max(groups), sum(groups)) == (6, 60)
        waiting = [spool.append(raws(3, 60 + 3 * number)) for number in range(20)]
    await asyncio.gather(*waiting)  # also those that waited at the end
    async with open_spool(tmp_path, LIMIT) as spool:
        assert await contents(spool) == raws(117, 3)
