"""What the database needs from time to time: days made ahead, old ones dropped or compressed, old jobs and keys removed.

One of several `local`s does it, whichever gets the advisory lock. Events go by whole chunks (TimescaleDB) or partitions,
never row by row.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import psycopg

from fabmon.errors import StoreUnavailable
from fabmon.logs import Log
from fabmon.store.compress import compress_events, may_compress
from fabmon.store.named import query
from fabmon.store.pool import Connection, Pool, translated
from fabmon.store.schema import Schema
from fabmon.tasks import beside

log = Log("fabmon.upkeep")

EVERY_SECONDS: Final = 3600.0
_FIRST_RETRY_SECONDS: Final = 5.0
_LONGEST_RETRY_SECONDS: Final = 300.0
_ROWS_AT_ONCE: Final = 5000


class Periods(msgspec.Struct, frozen=True, kw_only=True):
    """In days; 0 for compression: never."""

    keep_events: int
    keep_jobs: int
    compress_events_after: int = 0


@asynccontextmanager
async def upkeep(pool: Pool, schema: Schema, periods: Periods) -> AsyncIterator[None]:
    """Do it at once and then hourly, as long as the context is open."""
    async with beside("upkeep", _run(pool, schema, periods)):
        yield


async def keep_up(pool: Pool, periods: Periods) -> bool:
    """One round; False when another process is at it."""
    async with translated("upkeep"), pool.connection() as connection:
        row = await (await connection.execute(query("lock_upkeep"))).fetchone()
        if not (row and row["locked"]):
            return False
        try:
            storage = await (await connection.execute(query("read_storage"))).fetchone()
            if storage and storage["hypertable"]:
                await connection.execute(query("drop_chunks"), {"days": periods.keep_events})
            else:
                await connection.execute(query("make_partitions"))
                await connection.execute(query("drop_partitions"), {"days": periods.keep_events})
            await _remove(connection, "remove_keys", periods.keep_events)
            await _remove(connection, "remove_jobs", periods.keep_jobs)
            await _remove(connection, "remove_subjobs", periods.keep_jobs)
            # One that was silent for so long holds back nothing that would still be kept.
            await connection.execute(query("forget_sidecars"), {"days": periods.keep_events})
            if periods.compress_events_after:
                await compress_events(connection, periods.compress_events_after)
        finally:
            await connection.execute(query("unlock_upkeep"))
    return True


async def _remove(connection: Connection, name: str, days: int) -> None:
    """In small transactions: none of them holds back the change feed for long."""
    removed = _ROWS_AT_ONCE
    while removed == _ROWS_AT_ONCE:
        cursor = await connection.execute(query(name), {"days": days, "rows": _ROWS_AT_ONCE})
        removed = cursor.rowcount
    if removed:
        log.info("upkeep.removed", what=name, last_rows=removed)


async def _run(pool: Pool, schema: Schema, periods: Periods) -> None:
    delay = _FIRST_RETRY_SECONDS
    while True:
        try:
            await schema.must_match()
            if periods.compress_events_after and not await may_compress(pool):
                periods = msgspec.structs.replace(periods, compress_events_after=0)
            await keep_up(pool, periods)
            delay = _FIRST_RETRY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
        except (StoreUnavailable, psycopg.Error) as error:
            # A right that is missing, say: events are taken all the same, so it is no reason to stop the role.
            reason = str(error).partition("\n")[0]
            log.warning("upkeep.waiting", reason=reason, action="trying again", retry_in_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
