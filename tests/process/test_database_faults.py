"""A database that refuses: its disk is full, it has no connection left, it breaks a deadlock. Nothing answered is lost."""

import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fabmon.store.account import choose_account, give
from tests.fixtures.disk import mounted_disk
from tests.fixtures.reporting import drained, more, reporting, stored
from tests.fixtures.roles import Service, StartRole, eventually
from tests.fixtures.servers import OwnServer
from tests.make import event_dict
from tests.process.test_start import fabmon

MakeServer = Callable[..., OwnServer]


@pytest.fixture
def small_disk(data_dir: Path) -> Iterator[Path]:
    """24 MB, of which a database with the schema takes half."""
    with mounted_disk(data_dir / "disk", "24m") as place:
        (place / "tables").mkdir(mode=0o700)
        give(place / "tables", choose_account(place / "tables"))
        yield place


def test_a_full_disk_of_the_database_is_survived(
    small_disk: Path, own_server: MakeServer, make_role: StartRole
) -> None:
    server = own_server("server").make().start()
    server.do(f"create tablespace small location '{small_disk}/tables'")
    server.do("create database fabmon tablespace small")
    url = server.url_of("fabmon")
    assert fabmon("migrate", FABMON_DATABASE_URL=url).returncode == 0
    local = make_role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1").start()
    filler = small_disk / "filler"
    with reporting(local) as accepted:
        more(accepted, 50)
        _fill(filler)
        eventually(lambda: local.get("/v1/healthz").json["spool_count"] > 20)
        more(accepted, 50)
        filler.unlink()
        eventually(lambda: local.get("/v1/healthz").json["spool_count"] == 0)
        more(accepted, 50)
    drained(local)
    assert "No space left" in local.log
    assert stored(local) >= set(accepted)


def test_no_connection_left_is_survived(own_server: MakeServer, make_role: StartRole) -> None:
    server = own_server("server", max_connections="12", superuser_reserved_connections="0").make().start()
    assert fabmon("migrate", FABMON_DATABASE_URL=server.url).returncode == 0
    local = make_role("local", FABMON_DATABASE_URL=server.url, FABMON_SITE_ID="fab1").start()
    with reporting(local) as accepted:
        more(accepted, 50)
        with ExitStack() as taken:
            ours = taken.enter_context(psycopg.connect(server.url, autocommit=True, application_name="test"))

            def nothing_is_left_and_the_spool_grows() -> bool:
                _take_all(local, server.url, ours, taken)
                return bool(local.get("/v1/healthz").json["spool_count"] > 20)

            eventually(nothing_is_left_and_the_spool_grows)
            more(accepted, 50)
        eventually(lambda: local.get("/v1/healthz").json["spool_count"] == 0)
        more(accepted, 50)
    drained(local)
    assert "upstream.lost" in local.log
    assert stored(local) >= set(accepted)


@pytest.fixture
def two_jobs(local: Service) -> list[str]:
    """The ids of two stored jobs, the lesser first: in that order a writer takes their rows."""
    jobs = sorted(str(uuid.uuid4()) for _ in range(2))
    assert local.send([event_dict(run=job) for job in jobs]).json["stored"] == 2
    return jobs


@pytest.mark.one_lane
def test_a_deadlock_is_broken_and_its_events_are_kept(
    make_role: StartRole, database_url: str, two_jobs: list[str]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        # A server looks for a deadlock once in each wait: by then the test must have made one.
        connection.execute(f"alter database {name} set deadlock_timeout = '3s'".encode())
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_SITE_ID="fab1").start()
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("set local deadlock_timeout = '60s'")  # it is our side that looks for a deadlock, and gives up
        other.execute("select from run where id = %s for update", [two_jobs[1]])
        asked = thread.submit(local.send, [event_dict("finished", run=job, at=9) for job in two_jobs])
        _wait_for_lock(database_url)
        other.execute("select from run where id = %s for update", [two_jobs[0]])  # now each waits for the other
        reply = asked.result(60)
        other.rollback()
    assert (reply.status, reply.json["stored"] + reply.json["spooled"]) == (200, 2)
    drained(local)
    assert "deadlock" in local.log
    assert [_count(local, job) for job in two_jobs] == [2, 2]


@pytest.mark.one_lane
def test_a_serialisation_failure_is_tried_again(make_role: StartRole, database_url: str, two_jobs: list[str]) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"alter database {name} set default_transaction_isolation = 'serializable'".encode())
    local = make_role("local", FABMON_DATABASE_URL=database_url, FABMON_SITE_ID="fab1").start()
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("update run set updated_at = now() where id = %s", [two_jobs[0]])
        asked = thread.submit(local.send, [event_dict("finished", run=job, at=9) for job in two_jobs])
        _wait_for_lock(database_url)
        other.commit()
        reply = asked.result(60)
    assert (reply.status, reply.json["stored"] + reply.json["spooled"]) == (200, 2)
    drained(local)
    assert "could not serialize" in local.log
    assert [_count(local, job) for job in two_jobs] == [2, 2]


@pytest.mark.one_lane
@pytest.mark.parametrize("code", ["XX002", "42501"], ids=["index_corrupted", "insufficient_privilege"])
def test_a_database_that_is_damaged_or_closed_to_us_is_survived(local: Service, database_url: str, code: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection, reporting(local) as accepted:
        more(accepted, 20)
        connection.execute(
            "create function fail() returns trigger language plpgsql as"
            f" $$ begin raise exception 'no' using errcode = '{code}'; end $$".encode()
        )
        connection.execute("create trigger fail before insert on event_key for each row execute function fail()")
        more(accepted, 20)
        assert local.get("/v1/healthz").json["spool_count"]
        connection.execute("drop trigger fail on event_key")
        drained(local)
    drained(local)
    assert stored(local) >= set(accepted)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 65536)


def _take_all(local: Service, url: str, ours: psycopg.Connection[Any], taken: ExitStack) -> None:
    """Take every connection of the server, those of *local*, too; it stands still meanwhile, or it would be faster."""
    local.signal(signal.SIGSTOP)
    try:
        ours.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where backend_type = 'client backend' and application_name <> 'test'"
        )
        while True:
            taken.enter_context(psycopg.connect(url, application_name="test"))
    except psycopg.OperationalError as error:
        assert "too many clients" in str(error)
    finally:
        local.signal(signal.SIGCONT)


def _wait_for_lock(url: str) -> None:
    asking = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with psycopg.connect(url, autocommit=True) as connection:
        eventually(lambda: connection.execute(asking).fetchone())


def _count(local: Service, job: str) -> int:
    return len(local.get(f"/v1/jobs/{job}/events").json["items"])
