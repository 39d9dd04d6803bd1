"""Retention by whole chunks or partitions, the same on TimescaleDB and plain PostgreSQL."""

import asyncio
from datetime import timedelta

from fabmon.store.events import write_events
from fabmon.store.pool import Pool
from fabmon.store.upkeep import Periods, keep_up
from tests.make import event
from tests.postgres.rows import TODAY, one, store_on


async def round_of(pool: Pool, event_days: int = 30, job_days: int = 400) -> bool:
    return await keep_up(pool, Periods(keep_events=event_days, keep_jobs=job_days))


async def test_old_events_go_by_the_day_and_their_keys_follow(pool: Pool) -> None:
    for days_ago in (60, 45, 33, 5, 0):
        await store_on(pool, TODAY - timedelta(days=days_ago), 10)
    assert await round_of(pool)
    assert await one(pool, "select count(*) from event where stored_at < now() - interval '32 days'") == 0
    assert await one(pool, "select count(*) from event") == 20
    assert await one(pool, "select count(*) from event_key") == 20


async def test_a_late_event_is_kept_from_its_arrival_on(pool: Pool) -> None:
    await write_events(pool, [event(at="1999-10-19T12:00:00Z"), event(at=0)])
    await round_of(pool)
    assert await one(pool, "select count(*) from event") == 2
    assert await one(pool, "select count(*) from job") == 2


async def test_jobs_go_when_all_of_it_is_old(pool: Pool) -> None:
    await write_events(pool, [event(at="1999-10-19T12:00:00Z"), event(at=0)])
    async with pool.connection() as connection:
        await connection.execute("update job set updated_at = now() - interval '401 days'")
    await round_of(pool)
    assert await one(pool, "select count(*) from job") == 1


async def test_a_week_of_days_is_made_ahead_where_there_is_no_timescaledb(pool: Pool, lane: str) -> None:
    await round_of(pool)
    partitions = await one(pool, "select count(*) from pg_inherits where inhparent = 'event'::regclass")
    if lane == "embedded":
        assert partitions == 9  # today, seven days ahead, and the default
        assert await one(pool, f"select to_regclass('event_{TODAY + timedelta(days=7):%Y%m%d}') is not null")
        await write_events(pool, [event()])
        assert await one(pool, "select count(*) from event_default") == 0


async def test_a_database_that_got_timescaledb_later_keeps_its_partitions(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("create table plain (like event including all) partition by range (stored_at)")
        await connection.execute("drop table event")
        await connection.execute("alter table plain rename to event")
        await connection.execute("create table event_default partition of event default")
    await store_on(pool, TODAY - timedelta(days=60), 10)
    assert await round_of(pool)
    assert await one(pool, "select count(*) from event") == 0
    assert await one(pool, f"select to_regclass('event_{TODAY + timedelta(days=7):%Y%m%d}') is not null")


async def test_one_of_several_does_it(pool: Pool) -> None:
    async with pool.connection() as other:
        await other.execute("select pg_advisory_lock(hashtext('fabmon.upkeep'))")
        assert await round_of(pool) is False
        await other.execute("select pg_advisory_unlock(hashtext('fabmon.upkeep'))")
    assert await round_of(pool) is True
    assert any(await asyncio.gather(*(round_of(pool) for _ in range(4))))
