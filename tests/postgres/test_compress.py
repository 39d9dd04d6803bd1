"""Compression of old events: never without the licence.

No test runs the compression itself: the TimescaleDB that they have is the Apache edition. It knows every statement and
option of the other, though, and refuses them by the licence's name: that much is tested, and which days would be chosen.
"""

import asyncio
import logging
from datetime import timedelta

import psycopg
import pytest

from fabmon.store.compress import may_compress
from fabmon.store.named import query
from fabmon.store.pool import Pool
from fabmon.store.schema import open_schema
from fabmon.store.upkeep import Periods, keep_up, upkeep
from tests.postgres.rows import TODAY, one, store_on


async def test_without_the_licence_one_warning_says_so_and_the_rest_of_upkeep_is_done(
    pool: Pool, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    for days_ago in (60, 20, 0):
        await store_on(pool, TODAY - timedelta(days=days_ago), 10)
    async with (
        open_schema(pool) as schema,
        upkeep(pool, schema, Periods(keep_events=30, keep_jobs=400, compress_events_after=10)),
    ):
        async with asyncio.timeout(10):
            while await one(pool, "select count(*) from event, pg_sleep(0.02)") != 20:
                pass
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings] == ["upkeep.cannot_compress"]
    assert ("apache" if lane == "timescale" else "no hypertable") in warnings[0].__dict__["facts"]["found"]


async def test_what_the_database_refuses_does_not_stop_the_upkeep(
    pool: Pool, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    if lane == "timescale":  # as if the licence had been taken away after it was found
        await store_on(pool, TODAY - timedelta(days=20), 10)
        assert await keep_up(pool, Periods(keep_events=30, keep_jobs=400, compress_events_after=10))
        assert [record.getMessage() for record in caplog.records] == ["upkeep.not_compressed"]
        assert await one(pool, "select count(*) from event") == 10
        assert await keep_up(pool, Periods(keep_events=10, keep_jobs=400))  # the lock was given back
    assert not await may_compress(pool)


async def test_the_oldest_whole_days_behind_the_bound_are_chosen(pool: Pool, lane: str) -> None:
    if lane == "timescale":
        for days_ago in (0, 1, 9, 10, 11, 12, 13):
            await store_on(pool, TODAY - timedelta(days=days_ago), 1)
        async with pool.connection() as connection:
            values = {"days": 10, "chunks": 2}
            rows = await (await connection.execute(query("find_uncompressed"), values)).fetchall()
            values = {"days": 10, "chunks": 9}
            more = await (await connection.execute(query("find_uncompressed"), values)).fetchall()
        assert not any(row["compression_enabled"] for row in more)
        days = [await one(pool, f"select stored_at::date from {row['chunk']}") for row in more]  # noqa: S608 - a chunk
        # The tenth day back ended less than ten days ago.
        assert days == [TODAY - timedelta(days=days_ago) for days_ago in (13, 12, 11)]
        assert rows == more[:2]


async def test_the_apache_edition_refuses_the_statements_for_the_licence_alone(pool: Pool, lane: str) -> None:
    if lane == "timescale":
        await store_on(pool, TODAY - timedelta(days=20), 1)
        async with pool.connection() as connection:
            values = {"days": 10, "chunks": 1}
            row = await (await connection.execute(query("find_uncompressed"), values)).fetchone()
            assert row is not None
            for name in ("enable_compression", "compress_chunk"):
                with pytest.raises(psycopg.errors.FeatureNotSupported, match='under the current "apache" license'):
                    await connection.execute(query(name), {"chunk": row["chunk"]})
            # It does tell what it does not know: an option, an argument.
            misspelt = query("enable_compression").replace(b"compress_orderby", b"compress_order")
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                await connection.execute(misspelt)
