"""A connection of ours is closed however its task ends."""

import asyncio

import psycopg

from fabmon.store.pool import closing


async def test_a_task_that_is_canceled_twice_leaves_no_connection(database_url: str) -> None:
    opened: list[psycopg.AsyncConnection[tuple[object, ...]]] = []
    ready = asyncio.Event()

    async def work() -> None:
        async with closing(await psycopg.AsyncConnection.connect(database_url)) as connection:
            opened.append(connection)
            await connection.execute("select 1")  # a transaction is open
            ready.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await ready.wait()
    task.cancel()
    await asyncio.sleep(0)  # psycopg's own `async with` rolls back now, and never closes when that is canceled
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert opened[0].closed
