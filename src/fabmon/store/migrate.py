"""Bring a database's schema up to date, and tell whether it is.

Numbered files of sql/migrations run once, each in a transaction, under an advisory lock, so that two processes that
migrate at once do it once. Files of sql/routines are re-run when any of them changed. A released file never changes:
sql/frozen.txt holds the hash of each, and the database remembers the hash of what it ran.
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from fabmon.errors import SchemaMismatch, StartError
from fabmon.store.named import query, sql_root
from fabmon.store.pool import Connection, closing, connection_string

_LOCK: Final = 0x6661626D6F6E  # "fabmon"; one migration at a time in a database
_ROUTINES: Final = 0  # the number under which the hash of all routines is kept

_REMEMBER: Final = """
create table if not exists fabmon_migration (
    number int primary key, name text not null, hash text not null, applied_at timestamptz not null default now()
)
"""
# TimescaleDB is used where the server has it loaded; creating it needs no more than the right to create in the database.
_TIMESCALE: Final = """
select exists (select from pg_available_extensions where name = 'timescaledb')
    and current_setting('shared_preload_libraries') like '%timescaledb%'
    and not exists (select from pg_extension where extname = 'timescaledb') as wanted
"""


class Migration(msgspec.Struct, frozen=True):
    number: int
    name: str
    text: str

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Every numbered migration, in order."""
    return [_read(path) for path in sorted((sql_root() / "migrations").glob("*.sql"))]


def newest() -> int:
    """The schema version that this code was written for."""
    return migrations()[-1].number


async def migrate(url: str) -> list[str]:
    """Run what is missing in the database at *url*; returns the names of what was run.

    Raises SchemaMismatch when the database is ahead of this code or ran a migration whose text has changed since, and
    StartError when the database cannot be reached.
    """
    try:
        connection = await AsyncConnection.connect(connection_string(url), autocommit=True, row_factory=dict_row)
    except psycopg.OperationalError as error:
        raise StartError(f"FABMON_DATABASE_URL: the database does not answer: {_first_line(error)}") from error
    async with closing(connection):
        # Migrations may rebuild large indexes, and wait for another process that is migrating.
        await connection.execute("set statement_timeout = 0")
        await connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        try:
            return await _run_missing(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            raise StartError(f"the database role may not change the schema: {_first_line(error)}") from error
        finally:
            await connection.execute("select pg_advisory_unlock(%s)", [_LOCK])


async def check_schema(connection: Connection) -> int:
    """The schema's version; raises SchemaMismatch when it is behind or ahead of this code."""
    try:
        done = await _applied(connection)
    except psycopg.errors.UndefinedTable:
        done = {}
    version = max(done, default=0)
    if version < newest() or done.get(_ROUTINES) != _routines().hash:
        raise SchemaMismatch(f"the database has schema {version}, this is for {newest()}: run `fabmon migrate`")
    _refuse_ahead_or_changed(done)
    return version


async def _run_missing(connection: Connection) -> list[str]:
    wanted = await (await connection.execute(_TIMESCALE)).fetchone()
    if wanted and wanted["wanted"]:
        await connection.execute("create extension if not exists timescaledb")
    await connection.execute(_REMEMBER)
    done = await _applied(connection)
    _refuse_ahead_or_changed(done)
    missing = [migration for migration in migrations() if migration.number not in done]
    routines = _routines()
    if done.get(_ROUTINES) != routines.hash:
        missing.append(routines)
    for migration in missing:
        if migration.text.startswith("-- no-transaction"):
            await _run(connection, migration)
        else:
            async with connection.transaction():
                await _run(connection, migration)
    # Events find their day's partition from the first one on; later days are upkeep's.
    await connection.execute(query("make_partitions"))
    return [migration.name for migration in missing]


async def _run(connection: Connection, migration: Migration) -> None:
    await connection.execute(migration.text.encode())
    await connection.execute(
        "insert into fabmon_migration (number, name, hash) values (%s, %s, %s)"
        " on conflict (number) do update set hash = excluded.hash, applied_at = now()",
        [migration.number, migration.name, migration.hash],
    )


async def _applied(connection: AsyncConnection[DictRow]) -> dict[int, str]:
    cursor = await connection.execute("select number, hash from fabmon_migration")
    return {row["number"]: row["hash"] for row in await cursor.fetchall()}


def _refuse_ahead_or_changed(done: dict[int, str]) -> None:
    known = {migration.number: migration for migration in migrations()}
    version = max(done, default=0)
    if version > newest():
        raise SchemaMismatch(f"the database has schema {version}, this is for {newest()}: upgrade fabmon")
    for number, digest in done.items():
        if number != _ROUTINES and known[number].hash != digest:
            raise SchemaMismatch(f"{known[number].name} is not the file that this database ran: reinstall fabmon")


def _routines() -> Migration:
    texts = [path.read_text(encoding="utf-8") for path in sorted((sql_root() / "routines").glob("*.sql"))]
    return Migration(_ROUTINES, "routines", "\n".join(texts))


def _read(path: Path) -> Migration:
    return Migration(int(path.name[:4]), path.stem, path.read_text(encoding="utf-8"))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
