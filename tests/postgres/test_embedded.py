"""The embedded PostgreSQL, with real processes that are really killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from fabmon.errors import StartError
from fabmon.store.embedded import open_embedded
from fabmon.store.pool import closing

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="there is none on Windows")]

HOLDER = """
import asyncio, sys
from pathlib import Path
from fabmon.store.embedded import open_embedded
from fabmon.store.pool import closing

async def main():
    async with open_embedded(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.sleep(120)

asyncio.run(main())
"""


async def test_data_survives_a_stop_and_a_start(data_dir: Path) -> None:
    async with open_embedded(data_dir) as first:
        await query(first, "create table kept as select 42 as answer")
        pid = postmaster_pid(data_dir)
    assert not running(pid)
    async with open_embedded(data_dir) as second:
        assert second == first
        assert await query(second, "select answer from kept") == 42


async def test_it_is_durable_by_default_and_listens_on_no_port(data_dir: Path) -> None:
    async with open_embedded(data_dir) as url:
        shown = [await query(url, f"show {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")]
        assert shown == ["on", "on", "on"]
        assert await query(url, "show listen_addresses") == ""
        assert (data_dir / "socket").stat().st_mode & 0o777 == 0o700


async def test_a_killed_server_is_started_again_under_the_same_url(data_dir: Path) -> None:
    async with open_embedded(data_dir) as url:
        await query(url, "create table kept as select 42 as answer")
        async with closing(
            await psycopg.AsyncConnection.connect(url)
        ) as idle:  # a backend that outlives its postmaster
            for _ in range(2):
                killed = postmaster_pid(data_dir)
                os.kill(killed, signal.SIGKILL)
                assert await until_answered(url, "select answer from kept", seconds=30) == 42
                assert postmaster_pid(data_dir) != killed
            with pytest.raises(psycopg.OperationalError):
                await idle.execute("select 1")


async def test_a_second_opener_is_told_who_holds_the_directory(data_dir: Path) -> None:
    with holder(data_dir) as child:
        with pytest.raises(StartError, match=rf"in use by process {child.pid}\b"):
            async with open_embedded(data_dir):
                pass
        child.kill()
    stop_postmaster(data_dir)


async def test_a_server_left_behind_by_a_killed_process_is_taken_over_and_stopped(data_dir: Path) -> None:
    with holder(data_dir) as child:
        left_over = postmaster_pid(data_dir)
        child.kill()
        child.wait(timeout=30)
    assert running(left_over)
    async with open_embedded(data_dir) as url:
        assert postmaster_pid(data_dir) == left_over
        os.kill(left_over, signal.SIGKILL)  # it is watched like one of ours
        assert await until_answered(url, "select 1", seconds=30) == 1
        started = postmaster_pid(data_dir)
    assert not running(started)


async def test_a_lock_file_with_the_pid_of_another_program_does_not_stop_the_start(data_dir: Path) -> None:
    async with open_embedded(data_dir):
        record = (data_dir / "data" / "postmaster.pid").read_text().split("\n")
    account = (data_dir / "data").stat().st_uid if os.getuid() == 0 else None
    stranger = subprocess.Popen(["sleep", "60"], user=account)  # noqa: ASYNC220 - it is not waited for
    try:
        (data_dir / "data" / "postmaster.pid").write_text("\n".join([str(stranger.pid), *record[1:]]))
        async with open_embedded(data_dir) as url:
            assert await query(url, "select 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(timeout=30)


async def test_an_initdb_that_was_cut_short_is_done_again(data_dir: Path) -> None:
    (data_dir / "data.new" / "base").mkdir(parents=True)
    (data_dir / "data.new" / "PG_VERSION").write_text("18\n")
    async with open_embedded(data_dir) as url:
        assert await query(url, "select 1") == 1
    assert not (data_dir / "data.new").exists()


async def test_a_path_too_long_for_a_socket_works(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e, " * 20)
    async with open_embedded(deep) as url:
        assert await query(url, "select 1") == 1
        assert not (deep / "socket").exists()


async def test_a_start_that_cannot_work_says_what_postgresql_said(data_dir: Path) -> None:
    with pytest.raises(StartError, match="no_such_setting"):
        async with open_embedded(data_dir, {"no_such_setting": "1"}):
            pass


async def query(url: str, statement: str) -> object:
    async with asyncio.timeout(30), closing(await psycopg.AsyncConnection.connect(url, autocommit=True)) as connection:
        cursor = await connection.execute(statement.encode())
        row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None


async def until_answered(url: str, statement: str, seconds: float) -> object:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await query(url, statement)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, f"no answer within {seconds} s"
            await asyncio.sleep(0.02)


def postmaster_pid(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().split("\n")[0])


def running(pid: int) -> bool:
    """Not so for a zombie: a child of init that nobody has collected yet."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1] not in ("", "Z")


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has *directory* open; in the end it is killed, and its PostgreSQL runs on."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER, directory], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline().startswith("postgresql://")
        yield child
    finally:
        child.kill()
        child.wait(timeout=30)
        child.stdout.close()


def stop_postmaster(directory: Path) -> None:
    pid = postmaster_pid(directory)
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + 30
    while running(pid):
        assert time.monotonic() < deadline, "PostgreSQL does not stop"
        time.sleep(0.02)
