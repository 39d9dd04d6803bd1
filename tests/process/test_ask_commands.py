"""`fabmon jobs` and `fabmon tail` ask for everything that the API has a parameter for."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import tzset
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest

from fabmon.cli import ask as ask_module
from fabmon.cli.ask import _connection
from fabmon.cli.screen import duration, local_time, moment, said, shown
from fabmon.errors import StartError
from fabmon.roles.described import CENTRAL
from fabmon.unsent.lost import lost_event
from tests.fixtures.roles import Service, StartRole, free_port
from tests.make import event_dict, life
from tests.process.test_start import fabmon

EVENT = b'{"kind":"started","status":"running","at":"2026-10-19T12:00:00Z","app_name":"a","key":"k","entity_id":"e"}'


@contextmanager
def asked_server() -> Iterator[tuple[str, list[str]]]:
    """An API that remembers what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            is_stream = self.path.startswith("/v1/stream")
            self.wfile.write(b"id: 7-1\ndata: " + EVENT + b"\n\n" if is_stream else b'{"items":[],"count":0}')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def parameters(path: str) -> set[str]:
    return {param.name for param in CENTRAL[path].parameters}


def test_every_parameter_of_the_lists_has_an_option() -> None:
    flags = (
        "--site * --status failed --app a --app-id i --key k --key-prefix p --meta tool=E=1 --meta x=y --site-id fab1"
    )
    flags += " --stale --from 2026-01-01 --to 2026-01-02 --time-field active --order -duration_s --limit 5 --cursor c"
    with asked_server() as (url, asked):
        done = fabmon("jobs", "--url", url, *flags.split(), "--job", "j", "--count", "--json")
        assert done.returncode == 0, done.stderr
        assert fabmon("jobs", "--url", url, "--csv").returncode == 0
    first, second = map(urlsplit, asked)
    given = dict(parse_qsl(first.query))
    # How long to wait, and for whom, is central's question; format is --csv.
    asked_otherwise = {"format", "require", "deadline", "metadata.NAME"}
    assert set(given) == parameters("/v1/subjobs") - asked_otherwise | {"metadata.tool", "metadata.x"}
    assert (first.path, given["metadata.tool"], given["order"]) == ("/v1/subjobs", "E=1", "-duration_s")
    assert (second.path, second.query) == ("/v1/jobs", "format=csv")


def test_every_parameter_of_the_stream_has_an_option() -> None:
    flags = "--site fab1 --kind started --status running --app a --job j --entity-type job --site-id fab1 --from-id 3-1"
    with asked_server() as (url, asked):
        assert fabmon("tail", "--url", url, *flags.split(), "--count", "1").returncode == 0
    assert set(dict(parse_qsl(urlsplit(asked[0]).query))) == parameters("/v1/stream")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
@pytest.mark.parametrize("command", ["jobs --csv", "tail --json"])
def test_an_output_that_is_full_ends_the_command_and_is_not_the_api_s_fault(command: str) -> None:
    with asked_server() as (url, _), Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-m", "fabmon", *command.split(), "--url", url]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, timeout=60, text=True, check=False)
    assert (done.returncode, "No space left" in done.stderr, "Traceback" in done.stderr) == (1, True, False), (
        done.stderr
    )


@pytest.mark.one_lane
def test_a_table_says_what_it_lacks(local: Service, make_role: StartRole) -> None:
    run = event_dict()["entity"]["id"]
    local.send([*life(run), event_dict(), *life(parent=run, sub_key="wafer-07")])
    away = f"http://127.0.0.1:{free_port()}"
    central = make_role("central", FABMON_SITES=f"fab1={local.url},fab2={away}").start()
    shown = fabmon("jobs", "--url", central.url, "--site", "*", "--limit", "1", "--count", COLUMNS="100")
    assert "fabmon: site fab2 is missing" in shown.stderr
    assert shown.stdout.rstrip().endswith("1 of more than 2")
    assert "wafer-07" in fabmon("jobs", "--url", local.url, "--job", run, COLUMNS="100").stdout
    twice = fabmon("jobs", "--url", local.url, "--meta", "a=1", "--meta", "a=2")
    assert (twice.returncode, "--meta" in twice.stderr) == (1, True)


def test_an_address_that_is_none_is_said_so_and_nothing_is_asked() -> None:
    for url in ("ftp://a", "http://", "http://a b", "http://a:x", "file:///etc/passwd"):
        done = fabmon("jobs", "--url", url)
        assert (done.returncode, "is no URL" in done.stderr) == (2, True), url
    for url, token in (("http://a..b", ""), (f"http://127.0.0.1:{free_port()}", "two\nlines")):
        done = fabmon("jobs", "--url", url, FABMON_TOKEN=token)
        assert (done.returncode, "HTTP cannot carry" in done.stderr, "lines" in done.stderr) == (2, True, False), url
    six, _ = _connection("http://[::1]")
    assert (six.host, six.port) == ("::1", 80)  # and not what stands behind the last colon
    away = fabmon("jobs", "--url", f"http://127.0.0.1:{free_port()}")
    assert (away.returncode, "does not answer" in away.stderr) == (1, True)
    with asked_server() as (url, asked):
        nothing = fabmon("job", "a b/c?d", "--url", f"{url}/behind/")
    assert asked == ["/behind/v1/jobs?key=a+b%2Fc%3Fd&limit=1"]
    assert (nothing.returncode, "no job has that key" in nothing.stderr) == (1, True)


@pytest.mark.one_lane
def test_a_job_is_shown_by_its_id_or_its_key_and_the_table_fits_the_terminal(local: Service) -> None:
    run = event_dict()["entity"]["id"]
    local.send([*life(run, business_key="LOT-4711"), *life(parent=run, sub_key="wafer-07")])
    by_id, by_key = (fabmon("job", wanted, "--url", local.url, COLUMNS="80") for wanted in (run, "LOT-4711"))
    assert (by_id.returncode, by_id.stdout) == (0, by_key.stdout)
    assert "wafer-07" in by_key.stdout
    assert "lost" not in by_key.stdout
    for columns, has in ((60, (False, False)), (80, (True, False)), (200, (True, True))):
        for flags in ((), ("--subjobs",)):
            shown = fabmon("jobs", *flags, "--url", local.url, COLUMNS=str(columns)).stdout
            assert ("memory" in shown, run in shown) == has, shown
            assert "LOT-4711" in shown or "wafer-07" in shown
            assert max(map(len, shown.splitlines())) <= columns
    assert "FABMON_URL" in fabmon("jobs", "--help").stdout


@pytest.mark.one_lane
def test_what_goes_into_a_pipe_is_whole(local: Service) -> None:
    key, tool = "LOT-" + 200 * "7", "ETCH-" + 3000 * "x"
    job = event_dict(business_key=key, metadata={"tool": tool})
    local.send([job])
    for words in ("jobs", "job " + key, "tail --from-id 0-0 --count 1"):
        shown = fabmon(*words.split(), "--url", local.url, COLUMNS="")
        assert key in shown.stdout, (words, shown)
        assert words == "jobs" or tool in shown.stdout, words
        assert words[:4] == "tail" or job["entity"]["id"] in shown.stdout, words


def test_a_time_is_understood_as_the_table_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-2")  # two hours east of Greenwich
    tzset()
    try:
        assert moment("2026-10-19T14:00") == moment("2026-10-19 14:00") == "2026-10-19T14:00:00+02:00"
        assert moment("2026-10-19") == "2026-10-19T00:00:00+02:00"
        assert moment("2026-10-19T12:00Z") == "2026-10-19T12:00:00+00:00"
        today = f"{datetime.now():%Y-%m-%d}"
        assert moment("7:30") == moment("07:30") == f"{today}T07:30:00+02:00"
        assert [moment(text) for text in (None, "", "2026", "yesterday", "7:3", "1:", ":", "0001-01-01")] == [
            None, "", "2026", "yesterday", "7:3", "1:", ":", "0001-01-01",
        ]  # fmt: skip
    finally:
        monkeypatch.undo()
        tzset()


def test_what_an_event_says_comes_before_what_it_took() -> None:
    event = {"metadata": {"error": "chamber 3 lost pressure"}, "metrics": {"duration_s": 0.5}}
    assert list(said(event)) == ["error", "duration_s"]
    assert [shown(value) for value in (1.23456789, "a", ["bad"], {"a": None}, True, None, 7)] == [
        "1.23457", "a", '["bad"]', '{"a":null}', "true", "null", "7",
    ]  # fmt: skip


@pytest.mark.one_lane
def test_another_kind_of_api_is_named(local: Service, make_role: StartRole) -> None:
    sidecar = make_role("sidecar", FABMON_LOCAL_URL=local.url).start()
    for words in ("jobs", "job LOT-1", "tail"):
        done = fabmon(*words.split(), "--url", sidecar.url)
        assert (done.returncode, "which a local or central API has" in done.stderr) == (1, True), done.stderr
    assert "is no central API" in fabmon("jobs", "--url", local.url, "--site", "fab1").stderr
    unknown = fabmon("job", str(uuid4()), "--url", local.url)
    assert "no job" in unknown.stderr
    assert "is known here" in unknown.stderr
    of_subjob = life(parent=str(uuid4()), sub_key="wafer-07")
    local.send(of_subjob)
    subjob = fabmon("job", of_subjob[0]["entity"]["id"], "--url", local.url).stdout
    assert {"wafer-07", "started", "finished", of_subjob[0]["entity"]["parent_id"]} <= set(subjob.split())
    both = fabmon("jobs", "--url", local.url, "--json", "--csv")
    assert (both.returncode, both.stdout, "one of the two" in both.stderr) == (2, "", True)
    assert fabmon("jobs", "--url", local.url, "--job", str(uuid4())).stdout == "no subjobs match\n"


def test_an_api_that_keeps_silent_is_said_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ask_module, "_SLOW_SECONDS", 0.1)
    monkeypatch.setattr(ask_module, "_TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StartError, match="does not answer: timed out"):
            ask_module.fetch(url, "/v1/jobs", {})
        assert capsys.readouterr().err == f"fabmon: still waiting for {url}\n"
    with asked_server() as (url, _):
        ask_module.fetch(url, "/v1/jobs", {})
        time.sleep(0.2)
        assert capsys.readouterr().err == ""


def test_times_and_durations_are_said_in_the_units_of_their_size() -> None:
    now = datetime.now().astimezone()
    other_month = now.replace(month=1 if now.month == 7 else 7, day=15, hour=3, minute=5)
    assert local_time(now.isoformat()) == f"{now:%H:%M:%S}"
    assert local_time(other_month.isoformat()) == f"{other_month:%m}-15 03:05"
    assert local_time(other_month.replace(year=2024).isoformat()) == f"2024-{other_month:%m}-15 03:05"
    said = [duration(seconds) for seconds in (None, 0.04, 59.9, 61, 3_661, 359_999, 360_000)]
    assert said == ["", "0.0 s", "59.9 s", "1:01", "1:01:01", "99:59:59", "4 d 4 h"]


@pytest.mark.one_lane
def test_a_job_that_runs_shows_how_long_it_has_run_and_one_that_is_gone_that_it_is_lost(local: Service) -> None:
    started = event_dict(at=datetime.now(UTC) - timedelta(minutes=90), business_key="LOT-1")
    gone = event_dict(at=datetime.now(UTC) - timedelta(minutes=80), business_key="LOT-2")
    local.send([started, gone, json.loads(lost_event(gone))])
    lost, running = fabmon("jobs", "--url", local.url, COLUMNS="80").stdout.splitlines()[1:]
    assert "lost" in lost
    assert "running" not in lost
    assert "running" in running
    assert re.search(r"1:30:\d\d\+", running)
