"""When each event of the fab is sent: mostly at once; some late, twice, out of order, or after an outage. Pure.

Before an event leaves, it is held in a heap. The heap holds only events of jobs that already started, so it is bounded
by the fab's traffic; what piles up during a simulated outage comes under the sender's bound when it is let go.
"""

import heapq
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import count
from random import Random
from typing import Final, NamedTuple

from fabmon.demo.fab import jobs
from fabmon.wire.event import Event

LATE_SHARE: Final = 0.015
LATE_SECONDS: Final = (5.0, 60.0)
DISORDERED_SHARE: Final = 0.05
DISORDERED_SECONDS: Final = (0.3, 3.0)
REPEATED_SHARE: Final = 0.02
REPEATED_SECONDS: Final = (0.2, 20.0)

OUTAGE_EVERY_SECONDS: Final = 240.0
OUTAGE_SHARE: Final = 0.7
OUTAGE_SECONDS: Final = (10.0, 30.0)
REPEATED_AFTER_OUTAGE_SHARE: Final = 0.25


class Delivery(NamedTuple):
    """An event, and when it is sent: never before it happened."""

    at: datetime
    event: Event


def deliveries(*, seed: int, site_id: str, start: datetime, speed: float = 1.0) -> Iterator[Delivery]:
    """Everything that the fab sends, in the order of sending, without end; what is older than *start* is its history.

    The same arguments give the same deliveries. Another *start* gives the same course with other ids: see fab.py.
    """
    chance = Random(f"{seed} delivery")
    number = count()
    waiting: list[tuple[datetime, int, Event]] = []
    for job in jobs(seed=seed, site_id=site_id, start=start, speed=speed):
        while waiting and waiting[0][0] <= job.starts_at:
            at, _, event = heapq.heappop(waiting)
            yield Delivery(at, event)
        for event in job.events:
            for at in _sending_times(event.event.at, chance, seed, start):
                heapq.heappush(waiting, (at, next(number), event))


@lru_cache(maxsize=64)
def outage(seed: int, slot: int) -> tuple[float, float] | None:
    """When the sidecar "cannot be reached" in the *slot*-th four minutes: (begin, end) in seconds after the start."""
    chance = Random(f"{seed} outage {slot}")
    if slot < 0 or chance.random() > OUTAGE_SHARE:
        return None
    begin = OUTAGE_EVERY_SECONDS * slot + chance.uniform(60.0, 200.0)
    return begin, begin + chance.uniform(*OUTAGE_SECONDS)


def _sending_times(happened_at: datetime, chance: Random, seed: int, start: datetime) -> list[datetime]:
    at = happened_at
    dice = chance.random()
    if dice < LATE_SHARE:
        at += timedelta(seconds=chance.uniform(*LATE_SECONDS))
    elif dice < LATE_SHARE + DISORDERED_SHARE:
        at += timedelta(seconds=chance.uniform(*DISORDERED_SECONDS))
    reachable = _after_outage(at, seed, start)
    repeated_share = REPEATED_SHARE if reachable == at else REPEATED_AFTER_OUTAGE_SHARE
    if chance.random() >= repeated_share:
        return [reachable]
    again = reachable + timedelta(seconds=chance.uniform(*REPEATED_SECONDS))
    return [reachable, _after_outage(again, seed, start)]


def _after_outage(at: datetime, seed: int, start: datetime) -> datetime:
    """*at*, or shortly after the outage in which it falls, in about the old order."""
    offset = (at - start).total_seconds()
    window = outage(seed, int(offset // OUTAGE_EVERY_SECONDS))
    if window is None or not window[0] <= offset < window[1]:
        return at
    begin, end = window
    return start + timedelta(seconds=end + (offset - begin) * 0.05)
