"""Group commit: together when they wait together, one answer each, and nobody harmed by a neighbour."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fabmon.errors import BadEvent, Overloaded, StoreUnavailable
from fabmon.ingest import commit
from fabmon.ingest.commit import Bounds, Group, Outcome, Write, group_commit
from fabmon.wire.event import Batch, Sink
from tests.fixtures.roles import eventually_async
from tests.make import event


def batch(*keys: str) -> Batch:
    events = [event(business_key=key) for key in keys]
    return Batch(events, [b"{}"] * len(events))


def keys(group: Group) -> list[str | None]:
    return [each.entity.business_key for each in group.events]


class Store:
    """Stands for what is behind: remembers each group, and does with it what the test says."""

    def __init__(self) -> None:
        self.groups: list[list[str | None]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, group: Group) -> Outcome:
        self.groups.append(keys(group))
        await self.open.wait()
        if "away" in keys(group):
            raise StoreUnavailable("away")
        if "bug" in keys(group):
            raise KeyError("bug")
        if "bad" in keys(group):
            raise BadEvent("one of them", "not_storable")
        return Outcome({place for place, key in enumerate(keys(group)) if key == "repeat"})


@asynccontextmanager
async def sink_over(
    write: Write,
    max_events: int = 100,
    max_waiting: int = 100,
    waiting_bytes: int = 10**6,
    waiting_requests: int = 100,
    least: int = 1,
    in_flight: int = 1,
) -> AsyncIterator[Sink]:
    bounds = Bounds(
        group_events=max_events,
        group_events_least=least,
        group_bytes=10**6,
        waiting_events=max_waiting,
        waiting_bytes=waiting_bytes,
        waiting_requests=waiting_requests,
    )
    async with group_commit(write, bounds, in_flight=in_flight, name="test") as sink:
        yield sink


async def test_requests_that_wait_together_share_a_group() -> None:
    store = Store()
    async with sink_over(store.write) as sink:
        store.open.clear()
        first = asyncio.ensure_future(sink(batch("a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.ensure_future(sink(batch(key, "repeat"))) for key in "bcd"]
        await asyncio.sleep(0.01)
        store.open.set()
        receipts = await asyncio.gather(first, *rest)
    assert store.groups == [["a"], ["b", "repeat", "c", "repeat", "d", "repeat"]]
    assert [(receipt.stored, receipt.duplicates) for receipt in receipts] == [(1, 0), (1, 1), (1, 1), (1, 1)]


async def test_few_events_wait_for_the_group_under_way_and_many_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_PATIENCE_SECONDS", 60.0)  # it is not late
    store = Store()
    async with sink_over(store.write, least=3, in_flight=2) as sink:
        store.open.clear()
        asked = []
        for key in "abc":
            asked.append(asyncio.ensure_future(sink(batch(key))))
            await asyncio.sleep(0.001)
        assert store.groups == [["a"]]
        asked.append(asyncio.ensure_future(sink(batch("d"))))
        await eventually_async(lambda: store.groups == [["a"], ["b", "c", "d"]])
        store.open.set()
        await asyncio.gather(*asked)


async def test_a_group_that_is_late_keeps_nobody_waiting() -> None:
    store = Store()
    async with sink_over(store.write, least=3, in_flight=2) as sink:
        store.open.clear()
        asked = [asyncio.ensure_future(sink(batch("a")))]
        await eventually_async(lambda: store.groups)
        asked.append(asyncio.ensure_future(sink(batch("b"))))
        assert store.groups == [["a"]]
        await eventually_async(lambda: store.groups == [["a"], ["b"]])
        store.open.set()
        await asyncio.gather(*asked)


async def test_one_bad_event_is_refused_alone() -> None:
    store = Store()
    async with sink_over(store.write) as sink:
        good, mixed = await asyncio.gather(sink(batch("a", "b", "c")), sink(batch("d", "bad", "e")))
    assert (good.stored, good.rejected) == (3, [])
    assert (mixed.stored, [(why.index, why.code) for why in mixed.rejected]) == (2, [(1, "not_storable")])


async def test_a_group_is_bounded_and_a_request_is_not_split() -> None:
    store = Store()
    async with sink_over(store.write, max_events=3) as sink:
        await asyncio.gather(*(sink(batch(key, key)) for key in "abc"), sink(batch(*"123456")))
    assert store.groups == [["a", "a"], ["b", "b"], ["c", "c"], list("123456")]


@pytest.mark.parametrize("bound", [{"max_waiting": 3}, {"waiting_bytes": 7}, {"waiting_requests": 1}], ids=str)
async def test_more_than_may_wait_is_overload(bound: dict[str, int]) -> None:
    store = Store()
    async with sink_over(store.write, **bound) as sink:
        store.open.clear()
        first = asyncio.ensure_future(sink(batch("a")))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(sink(batch("b", "c")))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded):
            await sink(batch("d", "e"))
        store.open.set()
        assert [(await each).stored for each in (first, second)] == [1, 2]


async def test_an_outage_is_told_to_all_who_were_in_the_group_and_ends_there() -> None:
    store = Store()
    async with sink_over(store.write) as sink:
        results = await asyncio.gather(sink(batch("away")), sink(batch("b")), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
        assert (await sink(batch("c"))).stored == 1


async def test_a_caller_that_leaves_harms_nobody() -> None:
    store = Store()
    async with sink_over(store.write) as sink:
        store.open.clear()
        gone, stays = asyncio.ensure_future(sink(batch("a"))), asyncio.ensure_future(sink(batch("b")))
        await asyncio.sleep(0.01)
        gone.cancel()
        store.open.set()
        assert (await stays).stored == 1


async def test_leaving_writes_what_was_accepted() -> None:
    store = Store()
    async with sink_over(store.write) as sink:
        store.open.clear()
        waiting = [asyncio.ensure_future(sink(batch(key))) for key in "abc"]
        await asyncio.sleep(0.01)
        store.open.set()
    assert [(await each).stored for each in waiting] == [1, 1, 1]


async def test_a_bug_ends_the_role() -> None:
    store = Store()
    with pytest.raises(ExceptionGroup) as caught:
        async with sink_over(store.write) as sink:
            with pytest.raises(KeyError):
                await sink(batch("bug"))
            await asyncio.sleep(1)
    assert caught.group_contains(KeyError)
