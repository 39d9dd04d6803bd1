"""Write a batch: keys, events and the runs that they change, in one transaction.

take_keys   takes the keys, and says which were taken before (sql/routines/keys.sql)
COPY        the events; half the cost of an INSERT from JSON or arrays (docs/decisions/0003-write-path.md)
merge_runs  the batch's fold, merged into the rows (sql/routines/merge.sql)

A small batch is stored by one statement that does all three (sql/routines/store.sql).
"""

from collections.abc import Sequence
from typing import Final

import psycopg

from fabmon.errors import BadEvent
from fabmon.store.named import query
from fabmon.store.pool import Connection, Pool, translated
from fabmon.store.rows import copy_rows, json_rows
from fabmon.wire.codec import encode
from fabmon.wire.event import Event
from fabmon.wire.fold import fold, key_of, positions_of

# Up to so many events one statement is faster than five (docs/decisions/0003-write-path.md).
SMALL_BATCH_EVENTS: Final = 128


async def write_events(pool: Pool, events: Sequence[Event], small_batch: int = SMALL_BATCH_EVENTS) -> set[int]:
    """Store a batch in one transaction; returns the places in *events* of those that were stored before.

    *events*: any number, in any order; of two with the same key and site the first counts. Raises StoreUnavailable
    (nothing stored; retry) or BadEvent (nothing stored; at least one of them can't be).
    """
    batch = _Batch(events)
    write = _write_small if len(events) <= small_batch else _write_large
    async with translated(f"write {len(events)} events"), pool.connection() as connection:
        try:
            await write(connection, batch)
        except psycopg.Error as error:
            if not _lies_in_the_event(error):
                raise
            reason = str(error).partition("\n")[0]
            raise BadEvent(f"the database refuses it: {reason}", "not_storable") from error
    return batch.repeated


class _Batch:
    """The events of a batch without those that are known to be repeated."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.places: Sequence[int] = range(len(events))
        self.events = events
        self.positions = positions_of(events)
        self.repeated: set[int] = set()
        if len(set(map(key_of, self.positions))) < len(events):
            self.leave_out(self._repeated_within())

    def _repeated_within(self) -> list[int]:
        """Of the same key only the same site's is a repeat."""
        seen: set[tuple[str, str]] = set()
        found: list[int] = []
        for place, (position, event) in enumerate(zip(self.positions, self.events, strict=True)):
            name = (key_of(position), event.site_id)
            if name in seen:
                found.append(place)
            seen.add(name)
        return found

    def leave_out(self, found: Sequence[int]) -> None:
        """*found*: places in what is left."""
        if not found:
            return
        repeated = set(found)
        self.repeated.update(self.places[place] for place in repeated)
        kept = [place for place in range(len(self.events)) if place not in repeated]
        self.places = [self.places[place] for place in kept]
        self.events = [self.events[place] for place in kept]
        self.positions = [self.positions[place] for place in kept]

    def keys(self) -> dict[str, str]:
        """The parameters of take_keys."""
        sites = ",".join([f'"{event.site_id}"' for event in self.events])
        return {"keys": "{" + ",".join(map(key_of, self.positions)) + "}", "sites": "{" + sites + "}"}

    def states(self) -> dict[str, str]:
        """The parameter of merge_runs."""
        return {"states": encode(fold(self.events, self.positions)).decode()}


async def _write_small(connection: Connection, batch: _Batch) -> None:
    while batch.events:
        values = {**batch.keys(), **batch.states(), "events": json_rows(batch.events)}
        found = await _repeated(connection, "store_batch", values)
        if not found:
            return
        batch.leave_out(found)


async def _write_large(connection: Connection, batch: _Batch) -> None:
    async with connection.transaction():
        batch.leave_out(await _repeated(connection, "take_keys", batch.keys()))
        if not batch.events:
            return
        async with connection.cursor() as cursor, cursor.copy(query("copy_events")) as copy:
            await copy.write(copy_rows(batch.events, batch.positions))
        await connection.execute(query("merge_runs"), batch.states(), prepare=True)


async def _repeated(connection: Connection, name: str, values: dict[str, str]) -> Sequence[int]:
    row = await (await connection.execute(query(name), values, prepare=True)).fetchone()
    return row["repeated"] if row else ()


def _lies_in_the_event(error: psycopg.Error) -> bool:
    """Whether it would fail again: bad data, or more of it than PostgreSQL has room for in one value (class 54)."""
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "").startswith("54")
