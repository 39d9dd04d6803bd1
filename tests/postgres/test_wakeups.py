"""LISTEN and NOTIFY between processes: only those who listen are told; a lost connection is said."""

import asyncio

import pytest

from fabmon.errors import StoreUnavailable
from fabmon.store.pool import Pool
from fabmon.store.wakeups import open_listener, tell_commit


async def test_a_commit_is_heard_elsewhere_and_nobody_is_told_where_nobody_listens(
    pool: Pool, database_url: str
) -> None:
    assert not await tell_commit(pool, 0)
    async with open_listener(database_url) as one, open_listener(database_url) as other:
        assert not await one.heard(0.05)
        assert await tell_commit(pool, 0)
        assert await one.heard(5)
        assert await other.heard(5)
        assert not await one.heard(0.05)
    for _ in range(500):  # a server process takes a moment to see that its connection was closed
        if not await tell_commit(pool, 0):
            return
        await asyncio.sleep(0.01)
    pytest.fail("nobody listens, and still somebody is told")


async def test_a_process_does_not_tell_itself_alone(pool: Pool, database_url: str) -> None:
    async with open_listener(database_url) as mine:
        assert not await tell_commit(pool, mine.pid)
        async with open_listener(database_url) as other:
            assert await tell_commit(pool, mine.pid)
            assert await other.heard(5)


async def test_a_lost_connection_is_said(pool: Pool, database_url: str) -> None:
    with pytest.raises(StoreUnavailable):
        async with open_listener(database_url) as listener:
            async with pool.connection() as connection:
                await connection.execute("select pg_terminate_backend(%s)", [listener.pid])
            await listener.heard(5)
