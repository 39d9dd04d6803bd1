"""Group commit: requests that wait together are written together, and each is answered when its events are durable.

Used in front of the database (one transaction for many requests) and, in the sidecar, in front of the site (one batch for
many requests).
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from fabmon.errors import BadEvent, FabmonError, Overloaded
from fabmon.logs import Log
from fabmon.trace import Carried, current
from fabmon.wire.event import Batch, Event, Receipt, Rejection, Sink

log = Log("fabmon.commit")

# How long few events wait for the group under way before they get one of their own.
_PATIENCE_SECONDS: Final = 0.05


class Outcome(msgspec.Struct):
    """What became of a group, by place: the rest was stored."""

    duplicates: set[int] = msgspec.field(default_factory=set)
    rejected: dict[int, Rejection] = msgspec.field(default_factory=dict)


class Group(msgspec.Struct, frozen=True):
    """The events of several requests, in order, with the bytes each came as."""

    events: Sequence[Event]
    raws: Sequence[bytes]
    requests: Sequence[Carried] = ()


Write = Callable[[Group], Awaitable[Outcome]]
"""Makes a group durable as a whole; raises BadEvent when the cause lies in one of its events."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Of one group, and of all that wait for a group.

    While one is under way, fewer than *group_events_least* wait until it is done: a group costs the same for one event
    as for fifty, and soon more have come.
    """

    group_events: int
    group_events_least: int = 1
    group_bytes: int
    waiting_events: int
    waiting_bytes: int
    waiting_requests: int


class _Waiting(msgspec.Struct):
    batch: Batch
    bytes: int
    done: asyncio.Future[Receipt]
    request: Carried | None = None


@asynccontextmanager
async def group_commit(write: Write, bounds: Bounds, *, in_flight: int, name: str) -> AsyncIterator[Sink]:
    """A sink over *write* with at most *in_flight* groups under way.

    What would wait beyond *bounds* is refused with Overloaded. A request is never split between groups, and one that is
    larger than a group is a group by itself. Leaving the context writes everything that was accepted.
    """
    waiting: deque[_Waiting] = deque()
    waiting_events = waiting_bytes = 0
    prompt: set[int] = set()  # the workers whose group is under way, and not late
    wake = asyncio.Event()
    closing = False
    loop = asyncio.get_running_loop()

    async def sink(batch: Batch) -> Receipt:
        nonlocal waiting_events, waiting_bytes
        entry = _Waiting(batch, sum(map(len, batch.raws)), loop.create_future(), current.get())
        if waiting and (
            waiting_events + len(batch.raws) > bounds.waiting_events
            or waiting_bytes + entry.bytes > bounds.waiting_bytes
            or len(waiting) >= bounds.waiting_requests
        ):
            raise Overloaded(f"{len(waiting)} requests with {waiting_events} events are waiting to be stored")
        waiting.append(entry)
        waiting_events += len(batch.raws)
        waiting_bytes += entry.bytes
        if is_due():
            wake.set()
        return await entry.done

    def is_due() -> bool:
        return bool(waiting) and (not prompt or closing or waiting_events >= bounds.group_events_least)

    def take() -> list[_Waiting]:
        nonlocal waiting_events, waiting_bytes
        taken: list[_Waiting] = []
        events = size = 0
        while waiting:
            events += len(waiting[0].batch.raws)
            size += waiting[0].bytes
            if taken and (events > bounds.group_events or size > bounds.group_bytes):
                break
            taken.append(waiting.popleft())
            waiting_events -= len(taken[-1].batch.raws)
            waiting_bytes -= taken[-1].bytes
        return taken

    def is_late(worker: int) -> None:
        prompt.discard(worker)
        if is_due():
            wake.set()

    async def work(worker: int) -> None:
        while waiting or not closing:
            if not is_due():
                wake.clear()
                await wake.wait()
                continue
            prompt.add(worker)
            lateness = loop.call_later(_PATIENCE_SECONDS, is_late, worker)
            await _write_and_settle(write, take())
            lateness.cancel()
            prompt.discard(worker)

    async with asyncio.TaskGroup() as tasks:
        for number in range(in_flight):
            tasks.create_task(work(number), name=f"{name}-{number}")
        try:
            yield sink
        finally:
            closing = True
            wake.set()


async def _write_and_settle(write: Write, entries: Sequence[_Waiting]) -> None:
    group = Group(
        [event for entry in entries for event in entry.batch.events],
        [raw for entry in entries for raw in entry.batch.raws],
        [entry.request for entry in entries if entry.request is not None],
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
    duplicates, rejected = sorted(outcome.duplicates), sorted(outcome.rejected)
    start = 0
    for entry in entries:
        end = start + len(entry.batch.raws)
        if not entry.done.done():
            repeated = bisect_left(duplicates, end) - bisect_left(duplicates, start)
            places = rejected[bisect_left(rejected, start) : bisect_left(rejected, end)]
            refused = [
                Rejection(place - start, outcome.rejected[place].code, outcome.rejected[place].detail)
                for place in places
            ]
            entry.done.set_result(Receipt(end - start - repeated - len(refused), repeated, 0, refused))
        start = end


async def _write_or_split(write: Write, group: Group) -> Outcome:
    """Write the group; when one of its events is the cause of a failure, halve until that one is alone, and refuse it."""
    try:
        return await write(group)
    except BadEvent as error:
        if len(group.raws) == 1:
            return Outcome(rejected={0: Rejection(0, error.code, str(error))})
    middle = len(group.raws) // 2
    first = await _write_or_split(write, Group(group.events[:middle], group.raws[:middle], group.requests))
    second = await _write_or_split(write, Group(group.events[middle:], group.raws[middle:], group.requests))
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
