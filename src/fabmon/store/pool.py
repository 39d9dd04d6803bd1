"""Connections to PostgreSQL: opened, configured, and their errors translated."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
from msgspec import Raw
from psycopg import AsyncConnection
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from fabmon.errors import SettingsError, StoreUnavailable

Connection = AsyncConnection[DictRow]
C = TypeVar("C", bound=AsyncConnection[Any])
Pool = AsyncConnectionPool[Connection]

CONNECT_TIMEOUT_SECONDS: Final = 5
STATEMENT_TIMEOUT_SECONDS: Final = 30
# How long a caller waits for a free connection; a write that waits longer is spooled, a question is answered 503.
ACQUIRE_TIMEOUT_SECONDS: Final = 3.0

# A session of ours that hangs in a transaction would hold back the change feed; a half-dead connection is given up in time.
_SESSION: Final = {
    "timezone": "UTC",
    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    # Of memory and solid disks; at the default of 4 an index that would do is passed over.
    "random_page_cost": "1.1",
    "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
}


def connection_string(url: str) -> str:
    """*url* with the time limits that ours need; what the URL says itself stays.

    Raises SettingsError for what libpq cannot read, without repeating the URL: it may hold a password.
    """
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "application_name": "fabmon",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "FABMON_DATABASE_URL: libpq cannot read it; write postgresql://user@host:5432/name"
        ) from None
    session = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    return make_conninfo(**{**defaults, **given, "options": f"{session} {given.get('options', '')}".strip()})


@asynccontextmanager
async def open_pool(url: str, max_size: int) -> AsyncIterator[Pool]:
    """A pool that connects in the background; it opens whether or not the database answers."""
    pool: Pool = AsyncConnectionPool(
        connection_string(url),
        connection_class=AsyncConnection,
        min_size=1,
        max_size=max_size,
        open=False,
        timeout=ACQUIRE_TIMEOUT_SECONDS,
        configure=_configure,
        reconnect_timeout=10.0,
        kwargs={"row_factory": dict_row, "autocommit": True},
        name="store",
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=5.0)


_NOT_NOW: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.InsufficientPrivilege,
)


@asynccontextmanager
async def closing(connection: C) -> AsyncIterator[C]:
    """*connection*, closed at the end, whatever happens.

    psycopg's own `async with` rolls back first, and leaves the connection open when that is canceled too.
    """
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def translated(what: str) -> AsyncIterator[None]:
    """Turn "the database cannot do it now" into StoreUnavailable; *what* says what was being done.

    OperationalError covers a lost connection, a full disk, too many connections, deadlock and serialisation failure,
    InternalError a damaged table or index; a primary that became a standby answers with ReadOnlySqlTransaction, one that
    took a right away with InsufficientPrivilege.
    """
    try:
        yield
    except _NOT_NOW as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StoreUnavailable(f"{what}: {reason}") from error


class _JsonAsItIs(Loader):
    """JSON from the database goes out as the bytes that it is; nobody here needs to look inside."""

    def load(self, data: Buffer) -> Raw:
        return Raw(bytes(data))


async def _configure(connection: Connection) -> None:
    connection.adapters.register_loader("jsonb", _JsonAsItIs)
    # 2xx means durable: a server that is set to answer before its WAL is on disk is overruled here.
    await connection.execute(
        "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'"
    )
