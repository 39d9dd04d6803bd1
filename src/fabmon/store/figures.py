"""Figures over many jobs: per application, per stretch of time."""

from datetime import datetime, timedelta
from typing import Any

from fabmon.store.named import query
from fabmon.store.pool import Pool, translated


async def read_apps(pool: Pool, since: datetime) -> list[dict[str, Any]]:
    """Each application with a job that started since then, the one last heard of first."""
    async with translated("read applications"), pool.connection() as connection:
        return await (await connection.execute(query("read_apps"), {"since": since})).fetchall()


async def read_stats(
    pool: Pool, begin: datetime, end: datetime, bucket: timedelta, by: str | None
) -> list[dict[str, Any]]:
    """Jobs that started in [begin, end) by bucket; at most 10,001 rows, the last of which says that there are more."""
    values = {"begin": begin, "end": end, "bucket": bucket, "by": by}
    async with translated("read statistics"), pool.connection() as connection:
        return await (await connection.execute(query("read_stats"), values)).fetchall()
