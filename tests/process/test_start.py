"""How a role starts and stops: one clear line and the right exit code when it can't, a clean end when it should."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.roles import Service, StartRole, eventually, free_port
from tests.fixtures.sse import open_stream
from tests.make import event_dict, life

pytestmark = pytest.mark.one_lane


def fabmon(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FABMON_")}
    return subprocess.run(
        [sys.executable, "-m", "fabmon", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_setting_is_one_line_that_names_it_and_exit_2(tmp_path: Path) -> None:
    data = str(tmp_path)
    for role, settings, word in (
        ("local", {"FABMON_POOL_MAX_SIZE": "many"}, "FABMON_POOL_MAX_SIZE"),
        ("local", {"FABMON_SITE_ID": "fab 1"}, "FABMON_SITE_ID"),
        ("local", {"FABMON_DATABASE_URL": "mysql://x"}, "FABMON_DATABASE_URL"),
        ("local", {"FABMON_COMPRESS_AFTER_DAYS": "30"}, "FABMON_EVENT_RETENTION_DAYS"),
        ("sidecar", {"FABMON_SPOOL_MAX_BYTES": "1"}, "FABMON_SPOOL_MAX_BYTES"),
        ("sidecar", {"FABMON_LOCAL_URL": "localhost"}, "FABMON_LOCAL_URL"),
        ("sidecar", {"FABMON_SPOOL_DRI": "spool"}, "FABMON_SPOOL_DRI"),
        ("sidecar", {"FABMON_HOST": "0.0.0.0"}, "FABMON_HOST"),
        ("central", {"FABMON_SITES": "fab1"}, "FABMON_SITES"),
        ("central", {"FABMON_SITES": "/nowhere.toml"}, "FABMON_SITES"),
    ):
        port = str(free_port())
        done = fabmon("serve", "--role", role, "--port", port, FABMON_DATA_DIR=data, **settings)
        assert (done.returncode, word in done.stderr) == (2, True), (role, settings, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_secret_is_in_no_error(tmp_path: Path) -> None:
    done = fabmon(
        *("serve", "--role", "local", "--port", str(free_port())),
        FABMON_DATA_DIR=str(tmp_path),
        FABMON_DATABASE_URL="postgresql://me:hunter2@127.0.0.1:5432/x?no_such=1",
    )
    assert (done.returncode, "hunter2" in done.stderr + done.stdout) == (2, False)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = fabmon("serve", "--role", "sidecar", "--port", port, FABMON_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_a_schema_that_is_behind_or_ahead_names_the_command(empty_database_url: str, tmp_path: Path) -> None:
    arguments = ("serve", "--role", "local", "--port", str(free_port()))
    settings = {"FABMON_DATABASE_URL": empty_database_url, "FABMON_DATA_DIR": str(tmp_path)}
    behind = fabmon(*arguments, **settings)
    assert (behind.returncode, "fabmon migrate" in behind.stderr) == (1, True), behind.stderr
    with ThreadPoolExecutor(2) as threads:
        both = [each.result() for each in [threads.submit(fabmon, "migrate", **settings) for _ in range(2)]]
    for migrated in both:
        assert (migrated.returncode, "up to date" in migrated.stdout) == (0, True), migrated.stderr
    assert sorted("ran" in migrated.stdout for migrated in both) == [False, True]
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("insert into fabmon_migration select max(number) + 1, 'x', 'x' from fabmon_migration")
    ahead = fabmon(*arguments, **settings)
    assert (ahead.returncode, "upgrade fabmon" in ahead.stderr) == (1, True), ahead.stderr


def test_a_spool_is_used_by_one_process(make_role: StartRole) -> None:
    first = make_role("sidecar").start("/livez")
    done = fabmon("serve", "--role", "sidecar", "--port", str(free_port()), FABMON_DATA_DIR=first.data_dir)
    assert first.process is not None
    assert (done.returncode, f"process {first.process.pid}" in done.stderr) == (1, True), done.stderr


def test_a_second_signal_ends_it_at_once(local: Service) -> None:
    """A request that is still being sent holds up the first signal; nothing holds up the second."""
    with socket.create_connection(("127.0.0.1", local.port)) as slow:
        slow.sendall(b"POST /v1/ingest/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        with open_stream(local):  # whose answer says that what came before it was read
            local.signal(signal.SIGTERM)
            eventually(lambda: "role.stopping" in local.log)
            local.signal(signal.SIGTERM)
            assert local.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://h:99999", "is no URL"),
        ("http://h/?a=b", "is no URL"),
        ("http://localhost:18000 ", "is no URL"),
        ("http://bob:hunter2@127.0.0.1:1/", "is no URL"),
        ("http://LOCALHOST:8123", "is this sidecar itself"),
        ("http://[::1]:8123/", "is this sidecar itself"),
    ],
)
def test_a_local_url_that_could_never_deliver_stops_the_start(tmp_path: Path, url: str, says: str) -> None:
    done = fabmon("serve", "--role", "sidecar", "--port", "8123", FABMON_LOCAL_URL=url, FABMON_DATA_DIR=str(tmp_path))
    assert (done.returncode, says in done.stderr, "hunter2" in done.stderr) == (2, True, False), done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_config_shows_where_a_value_comes_from_and_hides_secrets() -> None:
    settings = {"FABMON_TOKEN": "hunter2", "FABMON_FORWARD_TIMEOUT_S": "1.5", "COLUMNS": "200"}
    shown = fabmon("config", "--role", "sidecar", **settings)
    assert "hunter2" not in shown.stdout
    line = next(line for line in shown.stdout.splitlines() if "FORWARD_TIMEOUT" in line)
    assert ("1.5" in line, "environment" in line) == (True, True)
    elsewhere = settings | {"COLUMNS": "80", "FABMON_DATA_DIR": "/data"}
    narrow, as_json = (fabmon("config", "--role", "sidecar", *flags, **elsewhere).stdout for flags in ((), ("--json",)))
    assert {"FABMON_FORWARD_TIMEOUT_S", "FABMON_SPOOL_MIN_FREE_BYTES"} <= set(narrow.split())
    by_name = {each["setting"]: each for each in json.loads(as_json)}
    assert (by_name["FABMON_TOKEN"]["value"], by_name["FABMON_TOKEN"]["source"]) == ("(hidden)", "environment")
    assert by_name["FABMON_SPOOL_DIR"]["value"] == str(Path("/data/sidecar-spool"))  # where it is, though none was said


def test_job_shows_one_job_with_its_events_and_subjobs(local: Service) -> None:
    job = life()
    run = job[0]["entity"]["id"]
    local.send([*job, *life(parent=run, sub_key="wafer-07")])
    shown = fabmon("job", run, "--url", local.url, COLUMNS="100").stdout
    for word in (run, "succeeded", "2048.5", "ETCH-07", "temperature_c=61.5", "wafer-07"):
        assert word in shown, shown
    assert json.loads(fabmon("job", run, "--url", local.url, "--json").stdout)["job"]["job_id"] == run
    assert "404" in fabmon("job", str(uuid.uuid4()), "--url", local.url).stderr


def test_tail_follows_reconnects_and_resumes(local: Service) -> None:
    command = [
        sys.executable,
        "-m",
        "fabmon",
        "tail",
        "--url",
        local.url,
        "--json",
        "--kind",
        "started",
        "--count",
        "3",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        eventually(lambda: "fabmon_stream_readers 1.0" in local.get("/metrics").body.decode())
        sent = [event_dict() for _ in range(3)]
        local.send([sent[0], event_dict("progress")])
        assert tail.stdout is not None
        lines = [tail.stdout.readline()]
        local.stop()
        local.start()
        local.send(sent[1:])
        lines += [tail.stdout.readline(), tail.stdout.readline()]
        assert tail.wait(30) == 0
    assert [json.loads(line)["idempotency_key"] for line in lines] == [each["idempotency_key"] for each in sent]


def test_jobs_prints_a_table(local: Service) -> None:
    local.send(life(app_name="recipe-runner"))
    table = fabmon("jobs", "--url", local.url, COLUMNS="100").stdout
    assert "recipe-runner" in table
    assert "5:00" in table  # 300.5 seconds
    assert "2048 MB" in table
    local.send(life(app_name="a-name-that-is-longer-than-its-column", begin=60))
    narrow = fabmon("jobs", "--url", local.url, COLUMNS="80").stdout.splitlines()
    assert len(narrow) == 3, narrow
    assert all(line.rstrip().endswith(("memory", "2048 MB")) and len(line) <= 80 for line in narrow), narrow
    assert fabmon("jobs", "--url", local.url, "--status", "failed").stdout.strip() == "no jobs match"
    assert fabmon("jobs", "--url", local.url, "--csv").stdout.splitlines()[0].startswith("job_id,app_id,app_name")
    assert '"items":[{' in fabmon("jobs", "--url", local.url, "--json").stdout
    away = fabmon("jobs", "--url", f"http://127.0.0.1:{free_port()}")
    assert (away.returncode, away.stderr.count("\n")) == (1, 1)
    assert "status" in fabmon("jobs", "--url", local.url, "--status", "done").stderr
