"""Write a batch: keys, events and the runs that they change, in one transaction.

take_keys   refuses what is stored already (sql/routines/keys.sql)
COPY        the events; half the cost of an INSERT from JSON or arrays (docs/decisions/0003-write-path.md)
merge_runs  the batch's fold, merged into the rows (sql/queries/write.sql)
"""

from collections.abc import Sequence
from typing import Final

import psycopg

from fabmon.errors import BadEvent, StoreUnavailable
from fabmon.store.named import query
from fabmon.store.pool import Connection, Pool, translated
from fabmon.wire.codec import encode
from fabmon.wire.event import Event
from fabmon.wire.fold import fold

# A key that another writer takes between our look and our write makes us look again; each time at least one key was
# committed by someone, so this many lost races in a row mean that something else is wrong.
_ATTEMPTS: Final = 20

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


async def write_events(pool: Pool, events: Sequence[Event]) -> set[int]:
    """Store a batch in one transaction; returns the places in *events* of those that were stored before.

    *events*: any number, in any order; of two with the same key and site the first counts. Raises StoreUnavailable
    (nothing stored; retry) or BadEvent (nothing stored; at least one of them can't be).
    """
    async with translated(f"write {len(events)} events"), pool.connection() as connection:
        for _ in range(_ATTEMPTS):
            try:
                return await _write(connection, events)
            except psycopg.errors.UniqueViolation:
                continue
            except psycopg.DataError as error:
                raise BadEvent(
                    f"the database refuses it: {str(error).partition(chr(10))[0]}", "not_storable"
                ) from error
    raise StoreUnavailable(f"write {len(events)} events: other writers keep storing the same ones")


async def _write(connection: Connection, events: Sequence[Event]) -> set[int]:
    repeated = _repeated_within(events)
    fresh = [place for place in range(len(events)) if place not in repeated]
    async with connection.transaction():
        while fresh:
            stored = await _take_keys(connection, [events[place] for place in fresh])
            if not stored:
                break
            repeated.update(fresh[place] for place in stored)
            fresh = [place for place in fresh if place not in repeated]
        if fresh:
            kept = [events[place] for place in fresh]
            async with connection.cursor() as cursor, cursor.copy(query("copy_events")) as copy:
                await copy.write("".join(map(_row, kept)))
            await connection.execute(query("merge_runs"), {"states": encode(fold(kept)).decode()}, prepare=True)
    return repeated


async def _take_keys(connection: Connection, events: Sequence[Event]) -> list[int]:
    keys = "{" + ",".join([event.idempotency_key.hex for event in events]) + "}"
    sites = "{" + ",".join([f'"{event.site_id}"' for event in events]) + "}"
    cursor = await connection.execute(query("take_keys"), {"keys": keys, "sites": sites}, prepare=True)
    row = await cursor.fetchone()
    return row["repeated"] if row else []


def _repeated_within(events: Sequence[Event]) -> set[int]:
    seen: set[tuple[bytes, str]] = set()
    repeated: set[int] = set()
    for place, event in enumerate(events):
        name = (event.idempotency_key.bytes, event.site_id)
        if name in seen:
            repeated.add(place)
        seen.add(name)
    return repeated


def _row(event: Event) -> str:
    """The event as one line of COPY's text format; None is \\N."""
    app, entity, happening = event.app, event.entity, event.event
    return (
        "\t".join(
            (
                event.idempotency_key.hex,
                event.site_id,
                entity.type,
                entity.id.hex,
                entity.parent_id.hex if entity.parent_id else "\\N",
                app.app_id.hex,
                app.name.translate(_ESCAPES),
                "\\N" if app.version is None else app.version.translate(_ESCAPES),
                "\\N" if entity.business_key is None else entity.business_key.translate(_ESCAPES),
                "\\N" if entity.sub_key is None else entity.sub_key.translate(_ESCAPES),
                happening.kind,
                happening.at.isoformat(),
                happening.meant_status,
                _json(happening.metrics),
                _json(happening.metadata),
            )
        )
        + "\n"
    )


def _json(value: object) -> str:
    return encode(value).decode().replace("\\", "\\\\") if value else "{}"
