"""Whether the database is there and has the schema that this code was written for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fabmon.clock import monotonic
from fabmon.errors import SchemaMismatch, StoreUnavailable
from fabmon.store.migrate import check_schema
from fabmon.store.pool import Pool, translated

_FACTS = "select (select extversion from pg_extension where extname = 'timescaledb') as timescaledb"
_ACQUIRE_SECONDS: Final = 1.0
_HEALTH_SECONDS: Final = 2.0


class Schema:
    """Remembers that the schema matched: it is asked before every write, and read once."""

    def __init__(self, pool: Pool, tasks: asyncio.TaskGroup) -> None:
        self._pool = pool
        self._tasks = tasks
        self._asking: asyncio.Task[str] | None = None
        self._version: int | None = None
        self._timescaledb: str | None = None

    @property
    def timescaledb(self) -> str | None:
        """TimescaleDB's version in this database, once the schema was read."""
        return self._timescaledb

    async def check(self) -> None:
        """Read the schema; raises SchemaMismatch, or StoreUnavailable when the database does not answer."""
        async with translated("read the schema"), self._pool.connection(timeout=_ACQUIRE_SECONDS) as connection:
            version = await check_schema(connection)
            row = await (await connection.execute(_FACTS)).fetchone()
        self._timescaledb = row["timescaledb"] if row else None
        self._version = version

    async def must_match(self) -> None:
        """Raise StoreUnavailable unless the schema is known to match: a late database may still need `fabmon migrate`."""
        if self._version is not None:
            return
        try:
            await self.check()
        except SchemaMismatch as error:
            raise StoreUnavailable(str(error)) from error

    async def must_answer(self) -> None:
        """Raise StoreUnavailable unless the database answers within two seconds, with the schema that it must have."""
        database = await self.health()
        if database["status"] != "ok":
            raise StoreUnavailable(database["error"])

    async def health(self) -> dict[str, Any]:
        """The `database` part of /v1/healthz, after two seconds at most."""
        begun = monotonic()
        found: dict[str, Any] = {"status": "ok", "latency_ms": None, "schema_version": None, "timescaledb": None}
        # A question to a network that went dark cannot be called off: psycopg waits for its end. So it goes on beside us,
        # and whoever asks meanwhile waits for the same one.
        if self._asking is None or self._asking.done():
            self._asking = self._tasks.create_task(self._ask(), name="schema-health")
        asking = self._asking
        done, _ = await asyncio.wait([asking], timeout=_HEALTH_SECONDS)
        error = asking.result() if done else f"no answer within {_HEALTH_SECONDS:g} s"
        if error:
            return found | {"status": "unavailable", "error": error}
        latency = round((monotonic() - begun) * 1000, 3)
        return found | {"latency_ms": latency, "schema_version": self._version, "timescaledb": self._timescaledb}

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> str:
        """Why the database cannot be used; empty when it can."""
        try:
            if self._version is None:
                await self.check()
            else:
                async with (
                    translated("ask the database"),
                    self._pool.connection(timeout=_ACQUIRE_SECONDS) as connection,
                ):
                    await connection.execute("select 1")
        except (StoreUnavailable, SchemaMismatch) as error:
            return str(error)
        return ""


@asynccontextmanager
async def open_schema(pool: Pool) -> AsyncIterator[Schema]:
    async with asyncio.TaskGroup() as tasks:
        schema = Schema(pool, tasks)
        try:
            yield schema
        finally:
            schema.close()
