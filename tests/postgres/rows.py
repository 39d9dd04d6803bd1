"""Reading what was stored, as the answers show it."""

import json
from typing import Any

from msgspec import Raw

from fabmon.store.pool import Pool
from fabmon.store.selection import SHOWN


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
