"""Group commit: requests that wait together are written together, and each is answered when its events are durable.

Used in front of the database (one transaction for many requests) and, in the sidecar, in front of the site (one batch for
many requests).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from fabmon.errors import BadEvent, FabmonError, Overloaded
from fabmon.logs import Log
from fabmon.wire.event import Batch, Event, Receipt, Rejection, Sink

log = Log("fabmon.commit")


class Outcome(msgspec.Struct):
    """What became of a group, by place: the rest was stored."""

    duplicates: set[int] = msgspec.field(default_factory=set)
    rejected: dict[int, Rejection] = msgspec.field(default_factory=dict)


class Group(msgspec.Struct, frozen=True):
    """The events of several requests, in order, with the bytes each came as."""

    events: Sequence[Event]
    raws: Sequence[bytes]


Write = Callable[[Group], Awaitable[Outcome]]
"""Makes a group durable as a whole; raises BadEvent when the cause lies in one of its events."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Of one group, and of all that wait for a group."""

    group_events: int
    group_bytes: int
    waiting_events: int
    waiting_bytes: int
    waiting_requests: int


class _Waiting(msgspec.Struct):
    batch: Batch
    bytes: int
    done: asyncio.Future[Receipt]


@asynccontextmanager
async def group_commit(write: Write, bounds: Bounds, *, in_flight: int, name: str) -> AsyncIterator[Sink]:
    """A sink over *write* with at most *in_flight* groups under way.

    What would wait beyond *bounds* is refused with Overloaded. A request is never split between groups, and one that is
    larger than a group is a group by itself. Leaving the context writes everything that was accepted.
    """
    waiting: deque[_Waiting] = deque()
    waiting_events = waiting_bytes = 0
    something = asyncio.Event()
    closing = False

    async def sink(batch: Batch) -> Receipt:
        nonlocal waiting_events, waiting_bytes
        entry = _Waiting(batch, sum(map(len, batch.raws)), asyncio.get_running_loop().create_future())
        if waiting and (
            waiting_events + len(batch.events) > bounds.waiting_events
            or waiting_bytes + entry.bytes > bounds.waiting_bytes
            or len(waiting) >= bounds.waiting_requests
        ):
            raise Overloaded(f"{len(waiting)} requests with {waiting_events} events are waiting to be stored")
        waiting.append(entry)
        waiting_events += len(batch.events)
        waiting_bytes += entry.bytes
        something.set()
        return await entry.done

    def take() -> list[_Waiting]:
        nonlocal waiting_events, waiting_bytes
        taken: list[_Waiting] = []
        events = size = 0
        while waiting:
            events += len(waiting[0].batch.events)
            size += waiting[0].bytes
            if taken and (events > bounds.group_events or size > bounds.group_bytes):
                break
            taken.append(waiting.popleft())
            waiting_events -= len(taken[-1].batch.events)
            waiting_bytes -= taken[-1].bytes
        return taken

    async def work() -> None:
        while waiting or not closing:
            if not waiting:
                something.clear()
                await something.wait()
                continue
            await _write_and_settle(write, take())

    async with asyncio.TaskGroup() as tasks:
        for number in range(in_flight):
            tasks.create_task(work(), name=f"{name}-{number}")
        try:
            yield sink
        finally:
            closing = True
            something.set()


async def _write_and_settle(write: Write, entries: Sequence[_Waiting]) -> None:
    group = Group(
        [event for entry in entries for event in entry.batch.events],
        [raw for entry in entries for raw in entry.batch.raws],
    )
    try:
        outcome = await _write_or_split(write, group)
    except FabmonError as error:
        _fail(entries, error)
        return
    except BaseException as error:
        # A bug or a cancellation: the callers learn of it, and so does the role.
        _fail(entries, error)
        raise
    start = 0
    for entry in entries:
        end = start + len(entry.batch.events)
        if not entry.done.done():
            entry.done.set_result(_receipt(outcome, start, end))
        start = end


async def _write_or_split(write: Write, group: Group) -> Outcome:
    """Write the group; when one of its events is the cause of a failure, halve until that one is alone, and refuse it."""
    try:
        return await write(group)
    except BadEvent as error:
        if len(group.events) == 1:
            return Outcome(rejected={0: Rejection(0, error.code, str(error))})
    middle = len(group.events) // 2
    first = await _write_or_split(write, Group(group.events[:middle], group.raws[:middle]))
    second = await _write_or_split(write, Group(group.events[middle:], group.raws[middle:]))
    first.duplicates |= {middle + place for place in second.duplicates}
    first.rejected |= {middle + place: why for place, why in second.rejected.items()}
    return first


def _fail(entries: Sequence[_Waiting], error: BaseException) -> None:
    for entry in entries:
        if not entry.done.done():
            if isinstance(error, asyncio.CancelledError):
                entry.done.cancel()
            else:
                entry.done.set_exception(error)


def _receipt(outcome: Outcome, start: int, end: int) -> Receipt:
    rejected = [
        Rejection(place - start, why.code, why.detail)
        for place, why in outcome.rejected.items()
        if start <= place < end
    ]
    duplicates = sum(start <= place < end for place in outcome.duplicates)
    return Receipt(stored=end - start - duplicates - len(rejected), duplicates=duplicates, rejected=rejected)
