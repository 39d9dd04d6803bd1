"""Migrations: once, whoever runs them; never over a database of another version."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from fabmon.errors import SchemaMismatch, StartError
from fabmon.store.migrate import migrate, migrations, newest
from fabmon.store.named import sql_root


async def test_two_at_once_run_each_once(empty_database_url: str) -> None:
    ran = await asyncio.gather(*(migrate(empty_database_url) for _ in range(3)))
    names = [migration.name for migration in migrations()]
    assert sorted(ran, key=len) == [[], [], [*names, "routines"]]


async def test_a_database_that_is_ahead_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into fabmon_migration values (%s, 'from the future', 'x')", [newest() + 1])
    with pytest.raises(SchemaMismatch, match="upgrade fabmon"):
        await migrate(database_url)


async def test_a_migration_that_was_changed_after_it_ran_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update fabmon_migration set hash = 'x' where number = 1")
    with pytest.raises(SchemaMismatch, match="0001"):
        await migrate(database_url)


async def test_changed_routines_are_run_again(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update fabmon_migration set hash = 'x' where number = 0")
    assert await migrate(database_url) == ["routines"]


async def test_a_database_that_does_not_answer_is_said() -> None:
    with pytest.raises(StartError, match="does not answer"):
        await migrate("postgresql://postgres@127.0.0.1:9/x")


def test_a_frozen_migration_never_changes() -> None:
    lines = (sql_root() / "frozen.txt").read_text().splitlines()
    frozen = {line.split()[1]: line.split()[0] for line in lines if not line.startswith("#")}
    assert frozen == {migration.name: migration.hash for migration in migrations()}


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))
    for path in Path(sql_root() / "migrations").glob("*"):
        assert path.stem.split("_")[1] in ("expand", "contract"), path.name
