"""reverse: one job's events that arrive in reverse order, against another job's that arrive in order.

100,000 events in batches of 1,000 over one connection, and 10,000 one by one; a smaller number as the argument is for
trying. Both jobs are measured slice by slice, turn by turn; were the cost not linear, the last slices would be the slowest.
Wanted: a ratio of at most 3 in time.
"""

import sys
import uuid
from datetime import timedelta

import uvloop

from benchmarks.bench import Result, database, finish, result, role
from benchmarks.data import events
from benchmarks.load import post_all
from fabmon.wire.codec import encode
from fabmon.wire.event import Entity, Event, Happening

EVENTS = 100_000
SLICES = 10


def main(count: int) -> None:
    found: list[Result] = []
    lines = [f"{'':14}{'in order':>10}{'reverse':>10}   seconds of each slice, reverse"]
    with database() as url, role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local:
        for name, number, size in (("one by one", count // 10, 1), ("batches", count, 1000)):
            ordered = slices(one_job(number, seed=size), size)
            reverse = slices(one_job(number, seed=size + 1)[::-1], size)
            took: tuple[list[float], list[float]] = ([], [])
            path = "/v1/ingest/events" if size == 1 else "/v1/ingest/events:batch"
            for pair in zip(ordered, reverse, strict=True):
                for bodies, seconds in zip(pair, took, strict=True):
                    load = uvloop.run(post_all(local.port, path, bodies, 1))
                    assert load.failures == 0
                    seconds.append(load.seconds)
            limit, ours = map(sum, took)
            lines.append(f"{name:14}{limit:9.2f}s{ours:9.2f}s   {' '.join(f'{value:.2f}' for value in took[1])}")
            found.append(result("reverse" if size > 1 else "reverse_one_by_one", ours, limit, "s"))
    settings = (
        f"A job of {count:,} events in batches of 1,000, one of {count // 10:,} one by one, each in order and in "
        f"reverse, in {SLICES} slices turn by turn; TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    finish(found, settings, "\n".join(lines), "reverse")


def one_job(count: int, seed: int) -> list[Event]:
    """*count* events of one job, a second apart."""
    job = Entity("job", uuid.uuid5(uuid.NAMESPACE_URL, f"reverse:{seed}:{count}"), business_key="LOT-1")
    made = events(count, seed)
    begin = made[0].event.at
    return [
        Event(each.idempotency_key, each.site_id, each.app, job, _at(each.event, begin + timedelta(seconds=place)))
        for place, each in enumerate(made)
    ]


def _at(happening: Happening, at: object) -> Happening:
    return Happening(happening.kind, at, happening.status, happening.metrics, happening.metadata)  # type: ignore[arg-type]


def slices(made: list[Event], size: int) -> list[list[bytes]]:
    """SLICES lists of bodies with *size* events each."""
    if size == 1:
        bodies = [encode(event) for event in made]
    else:
        bodies = [encode(made[start : start + size]) for start in range(0, len(made), size)]
    step = len(bodies) // SLICES
    return [bodies[place * step : (place + 1) * step] for place in range(SLICES)]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
