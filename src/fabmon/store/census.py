"""A bounded count of what the site's jobs do at the moment."""

from typing import Any, Final

import msgspec

from fabmon.store.named import query
from fabmon.store.pool import Pool, translated

# Jobs that one count looks at: about a tenth of a second of the database.
MOST_JOBS: Final = 50_000


class Census(msgspec.Struct, frozen=True):
    running: list[dict[str, Any]]  # app_name, running, silent, oldest_age_s
    ended: list[dict[str, Any]]  # app_name, status, jobs
    sidecars: list[dict[str, Any]]


async def read_census(pool: Pool, stale_after_s: float) -> Census:
    """Raises StoreUnavailable, also when the database takes more than five seconds for one of them."""
    async with translated("count jobs"), pool.connection() as connection, connection.transaction():
        await connection.execute(query("bound_census"))
        values = {"stale_after_s": stale_after_s, "jobs": MOST_JOBS}
        running = await (await connection.execute(query("running_jobs"), values)).fetchall()
        ended = await (await connection.execute(query("ended_jobs"), values)).fetchall()
        sidecars = await (await connection.execute(query("read_sidecars"))).fetchall()
    return Census(running, ended, sidecars)
