"""How `fabmon run` reports: to a sidecar that answers, is away, refuses or is silent; and what it does not accept."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, /proc and the subreaper are Linux's")


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    with Sidecar().serving() as serving:
        yield serving


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("FABMON_")}
    return {**mine, "FABMON_DATA_DIR": str(tmp_path)}


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_sidecar_that_is_away_changes_nothing_and_the_next_run_reports_both(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    begun = time.monotonic()
    away = fabmon_run(environment, url, "--key", "first", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (away.returncode, away.stdout, away.stderr) == (3, b"out\n", b"err\n")
    assert time.monotonic() - begun < 1.5
    (kept,) = (tmp_path / "unsent").iterdir()
    lines = kept.read_bytes().splitlines()
    assert [json.loads(line)["event"]["kind"] for line in lines] == ["started", "finished"]
    with Sidecar().serving() as elsewhere:  # not meant for this one
        fabmon_run(environment, elsewhere.url, "--", "true")
        assert len(elsewhere.bodies) == 2
    with Sidecar(port).serving() as back:
        fabmon_run(environment, url, "--key", "second", "--", "true")
    assert sorted(back.bodies[:2] + back.bodies[2:]) == sorted(set(back.bodies))
    assert set(lines) < set(back.bodies)
    assert len(back.bodies) == 4
    assert list((tmp_path / "unsent").iterdir()) == []


def test_a_claim_that_a_crash_left_behind_is_taken_up_again(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    fabmon_run(environment, url, "--", "true")
    fabmon_run(environment, url, "--", "true")
    fresh, stale = (tmp_path / "unsent").iterdir()
    claims = [path.rename(path.with_name(path.name + ".taken")) for path in (fresh, stale)]
    os.utime(claims[1], (1, 1))
    with Sidecar(port).serving() as back:
        fabmon_run(environment, url, "--", "true")
    assert len(back.bodies) == 4
    assert list((tmp_path / "unsent").iterdir()) == [claims[0]]


def drip(listener: socket.socket) -> None:
    """Never finish an answer, and never be silent for long."""
    with suppress(OSError), listener.accept()[0] as connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.2)


def test_a_sidecar_that_never_answers_delays_neither_the_start_nor_for_long_the_end(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as dripping:
        thread = threading.Thread(target=drip, args=[dripping])
        thread.start()
        urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in (silent, dripping)]
        command = ["--", "sh", "-c", "echo started; exec sleep 0.2"]
        lines = [[*FABMON_RUN, "--app", "x", "--url", url, *command] for url in urls]
        begun = time.monotonic()
        running = [subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) for line in lines]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
        assert time.monotonic() - begun < 1.0
        for process in running:
            assert process.communicate(timeout=20)[0] == b""
            assert process.returncode == 0
        assert time.monotonic() - begun < 0.2 + 2.0 + 1.0
        thread.join(5)
    for kept in (tmp_path / "unsent").iterdir():
        assert len(kept.read_bytes().splitlines()) == 2
    assert len(list((tmp_path / "unsent").iterdir())) == 2


def test_a_killed_wrapper_leaves_the_start_on_disk(environment: dict[str, str], tmp_path: Path) -> None:
    line = [*FABMON_RUN, "--app", "x", "--url", f"http://127.0.0.1:{free_port()}", "--", "sleep", "20"]
    with subprocess.Popen(line, env=environment, start_new_session=True) as running:
        until(lambda: list((tmp_path / "unsent").glob("*.jsonl")), "nothing was kept while the program ran")
        os.killpg(running.pid, signal.SIGKILL)


def test_a_refusal_is_said_in_one_line(sidecar: Sidecar, environment: dict[str, str], tmp_path: Path) -> None:
    sidecar.status = 422
    refused = fabmon_run(environment, sidecar.url, "--", "sh", "-c", "exit 5")
    assert refused.returncode == 5
    assert refused.stderr == b"fabmon run: this job's report: the sidecar answered 422: this is site fab9\n"
    assert not list(tmp_path.glob("unsent/*"))  # it would be refused for ever
    sidecar.status = 401
    assert fabmon_run(environment, sidecar.url, "--", "true").stderr.count(b"401") == 1
    assert len(list(tmp_path.glob("unsent/*"))) == 1  # the token can be mended


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--meta", "novalue", "--"], "--meta: 'novalue' is not of the form NAME=VALUE"),
        (["--meta", "=x", "--"], "--meta: '=x' is not of the form NAME=VALUE"),
        (["--meta", "exit_code=0", "--"], "--meta: exit_code is set by fabmon run itself"),
        (["--meta", b"x=\xff", "--"], "a value is no valid UTF-8"),
        (["--meta", "x=" + "y" * 66_000, "--"], "event.metadata holds at most 65536 bytes"),
        (["--key", "k" * 501, "--"], "entity.business_key: Expected `str` of length <= 500"),
        (["--parent", "7", "--"], "--parent: '7' is no UUID"),
        (["--site", "fab 1", "--"], "site_id: Expected `str` matching regex"),
        (["--url", "ftp://x", "--"], "the sidecar's URL is http://HOST:PORT"),
        (["--url", "http://x:99999", "--"], "the sidecar's URL is http://HOST:PORT"),
        (["--nonsense", "--"], "unrecognized arguments: --nonsense"),
        ([], "unrecognized arguments: touch"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    environment: dict[str, str], tmp_path: Path, arguments: list[str | bytes], said: str
) -> None:
    line = [*FABMON_RUN, "--app", "x", *arguments, "touch", str(tmp_path / "was-started")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fabmon run: {said}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
