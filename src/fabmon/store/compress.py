"""Compression of old events, by TimescaleDB's community edition where the database has that.

Why it is off unless asked for, and what it costs: docs/decisions/0008-timescaledb-community.md.
"""

from typing import Final

import psycopg

from fabmon.clock import monotonic
from fabmon.logs import Log
from fabmon.store.named import query
from fabmon.store.pool import Connection, Pool, translated

log = Log("fabmon.upkeep")

# In one round; whoever turns it on over a month of events gets there within a day.
_CHUNKS_AT_ONCE: Final = 4


async def may_compress(pool: Pool) -> bool:
    """Whether this database can; a WARNING says why not. Raises StoreUnavailable."""
    async with translated("read the licence"), pool.connection() as connection:
        storage = await (await connection.execute(query("read_storage"))).fetchone()
    found = storage["license"] if storage and storage["hypertable"] else None
    if found == "timescale":
        return True
    log.warning(
        "upkeep.cannot_compress",
        setting="FABMON_COMPRESS_AFTER_DAYS",
        wanted="TimescaleDB with timescaledb.license = timescale",
        found=f"timescaledb.license = {found}" if found else "no hypertable",
        action="keeping events uncompressed",
    )
    return False


async def compress_events(connection: Connection, days: int) -> None:
    """Compress whole chunks of more than *days* ago, a few in a round, each in a transaction of its own.

    What fails, or takes too long, is left as it is until the next round.
    """
    values = {"days": days, "chunks": _CHUNKS_AT_ONCE}
    chunks = await (await connection.execute(query("find_uncompressed"), values)).fetchall()
    try:
        if chunks and not chunks[0]["compression_enabled"]:
            async with connection.transaction():
                await connection.execute(query("bound_compression"))
                await connection.execute(query("enable_compression"))
        for row in chunks:
            begun = monotonic()
            async with connection.transaction():
                await connection.execute(query("bound_compression"))
                await connection.execute(query("compress_chunk"), {"chunk": row["chunk"]})
            log.info("upkeep.compressed", chunk=row["chunk"], seconds=round(monotonic() - begun, 3))
    except psycopg.Error as error:
        reason = str(error).partition("\n")[0]
        log.warning("upkeep.not_compressed", reason=reason, action="keeping it uncompressed, trying again in an hour")
