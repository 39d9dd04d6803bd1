"""How processes over one database wake one another after a commit: LISTEN and NOTIFY.

The notice is a transaction of its own, some time after the commits that it tells of: within theirs it would take a lock of
the whole server and make them wait for one another (docs/decisions/0005-stream.md). Who listens holds a shared advisory
lock, so that nothing is said where nobody listens.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from fabmon.store.named import query
from fabmon.store.pool import Pool, closing, connection_string, translated

_LOCK: Final = {"class": 0x666D, "object": 1}


async def tell_commit(pool: Pool, mine: int) -> bool:
    """Say that something was committed; returns whether anybody listens. *mine*: our own listener's `pid`, or 0."""
    async with translated("tell of a commit"), pool.connection() as connection:
        told = await connection.execute(query("tell_commit"), {**_LOCK, "mine": mine}, prepare=True)
        return told.rowcount > 0


class Listener:
    """A connection of its own that hears of commits; `pid` is its backend's."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        self._connection = connection
        self.pid = connection.info.backend_pid

    async def heard(self, seconds: float) -> bool:
        """Wait so long at most; whether something was committed elsewhere. Raises StoreUnavailable."""
        heard = False
        async with translated("listen"):
            async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                heard = True
        return heard


@asynccontextmanager
async def open_listener(url: str) -> AsyncIterator[Listener]:
    """Raises StoreUnavailable, also while it is open."""
    async with translated("listen"):
        connection = await psycopg.AsyncConnection.connect(connection_string(url), autocommit=True)
    async with closing(connection):
        async with translated("listen"):
            await connection.execute(query("hear_commits"), _LOCK)
            await connection.execute("listen fabmon_commit")
        yield Listener(connection)
