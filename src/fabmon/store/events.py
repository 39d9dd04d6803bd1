"""Write a batch: keys, events and the runs that they change, in one transaction.

take_keys   takes the keys, and says which were taken before (sql/routines/keys.sql)
COPY        the events; half the cost of an INSERT from JSON or arrays (docs/decisions/0003-write-path.md)
merge_runs  the batch's fold, merged into the rows (sql/queries/write.sql)
"""

from collections.abc import Sequence

import psycopg

from fabmon.errors import BadEvent
from fabmon.store.named import query
from fabmon.store.pool import Connection, Pool, translated
from fabmon.store.rows import copy_rows
from fabmon.wire.codec import encode
from fabmon.wire.event import Event
from fabmon.wire.fold import fold, key_of, positions_of


async def write_events(pool: Pool, events: Sequence[Event]) -> set[int]:
    """Store a batch in one transaction; returns the places in *events* of those that were stored before.

    *events*: any number, in any order; of two with the same key and site the first counts. Raises StoreUnavailable
    (nothing stored; retry) or BadEvent (nothing stored; at least one of them can't be).
    """
    positions = positions_of(events)
    async with translated(f"write {len(events)} events"), pool.connection() as connection:
        try:
            async with connection.transaction():
                return await _write(connection, events, positions)
        except psycopg.Error as error:
            if not _lies_in_the_event(error):
                raise
            reason = str(error).partition("\n")[0]
            raise BadEvent(f"the database refuses it: {reason}", "not_storable") from error


async def _write(connection: Connection, events: Sequence[Event], positions: Sequence[str]) -> set[int]:
    repeated = await _take_keys(connection, events, positions)
    if repeated:
        fresh = [place for place in range(len(events)) if place not in repeated]
        if not fresh:
            return repeated
        events, positions = [events[place] for place in fresh], [positions[place] for place in fresh]
    async with connection.cursor() as cursor, cursor.copy(query("copy_events")) as copy:
        await copy.write(copy_rows(events, positions))
    await connection.execute(query("merge_runs"), {"states": encode(fold(events, positions)).decode()}, prepare=True)
    return repeated


async def _take_keys(connection: Connection, events: Sequence[Event], positions: Sequence[str]) -> set[int]:
    """Take the keys of all; returns the places of those that were taken before, or earlier in this batch."""
    keys = list(map(key_of, positions))
    sites = [event.site_id for event in events]
    repeated: set[int] = set()
    if len(set(keys)) < len(keys):
        # Rare; and of the same key only the same site's is a repeat.
        seen: set[tuple[str, str]] = set()
        for place, name in enumerate(zip(keys, sites, strict=True)):
            if name in seen:
                repeated.add(place)
            seen.add(name)
    values = {"keys": "{" + ",".join(keys) + "}", "sites": "{" + ",".join([f'"{site}"' for site in sites]) + "}"}
    row = await (await connection.execute(query("take_keys"), values, prepare=True)).fetchone()
    return repeated.union(row["repeated"]) if row else repeated


def _lies_in_the_event(error: psycopg.Error) -> bool:
    """Whether it would fail again: bad data, or more of it than PostgreSQL has room for in one value (class 54)."""
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "").startswith("54")
