"""What was stored: as the answers show it, and as if it had been long ago."""

import json
from datetime import UTC, date, datetime
from typing import Any

from msgspec import Raw

from fabmon.store.pool import Pool
from fabmon.store.selection import SHOWN

TODAY = datetime.now(UTC).date()


async def read_run(pool: Pool, run: str, site: str = "fab1") -> dict[str, Any]:
    """The row of a job or subjob with all that is shown of it."""
    columns = ", ".join(f"{text} as {name}" for name, text in SHOWN["subjob"].items())
    async with pool.connection() as connection:
        found = await connection.execute(
            f"select {columns}, parent_id from run where id = %s and site_id = %s".encode(),  # noqa: S608 - our own table
            [run, site],
        )
        row = await found.fetchone()
    assert row is not None, f"run {run} is not there"
    return {name: json.loads(bytes(value)) if isinstance(value, Raw) else value for name, value in row.items()}


async def one(pool: Pool, text: str) -> object:
    async with pool.connection() as connection:
        row = await (await connection.execute(text.encode())).fetchone()
    assert row is not None
    return next(iter(row.values()))


async def store_on(pool: Pool, day: date, count: int) -> None:
    """Events as if they had been stored on *day*, with their keys."""
    async with pool.connection() as connection:
        await connection.execute("select make_event_partition(%s)", [day])
        await connection.execute(
            "insert into event (stored_at, idempotency_key, site_id, entity_type, entity_id, app_id, app_name, kind, at,"
            " status, metrics, metadata) select %s::timestamptz + interval '1 hour', gen_random_uuid(), 'fab1', 'job',"
            " gen_random_uuid(), gen_random_uuid(), 'old', 'started', now(), 'running', '{}', '{}'"
            " from generate_series(1, %s)",
            [day, count],
        )
        await connection.execute(
            "insert into event_key select gen_random_uuid(), 'fab1', %s from generate_series(1, %s)", [day, count]
        )
