"""How `fabmon run` reports: to a sidecar that answers, is away, refuses or is silent; and what it does not accept."""

import fcntl
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fixtures.roles import eventually, free_port
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run
from tests.fixtures.timing import in_time

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, /proc and the subreaper are Linux's")


def kept(data_dir: Path) -> list[bytes]:
    """What is on disk to be sent, at a moment when nobody renames a file."""
    while True:
        with suppress(FileNotFoundError):
            files = (data_dir / "unsent").glob("*.jsonl*")
            return [line for path in files for line in path.read_bytes().splitlines()]


def test_a_sidecar_that_is_away_changes_nothing_and_the_next_run_reports_both(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    runs = 0

    def run() -> float:
        nonlocal runs
        runs += 1
        begun = time.monotonic()
        away = fabmon_run(environment, url, "--key", "first", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
        took = time.monotonic() - begun
        assert (away.returncode, away.stdout, away.stderr) == (3, b"out\n", b"err\n")
        return took

    in_time(1.5, run)
    eventually(lambda: len(kept(tmp_path)) == 2 * runs)
    lines = kept(tmp_path)
    kinds = [json.loads(line)["event"]["kind"] for line in lines]
    assert sorted(kinds) == ["finished"] * runs + ["started"] * runs
    with Sidecar().serving() as elsewhere:  # not meant for this one
        fabmon_run(environment, elsewhere.url, "--wait", "--", "true")
        assert len(elsewhere.bodies) == 2
    with Sidecar(port).serving() as back:
        fabmon_run(environment, url, "--key", "second", "--", "true")
        eventually(lambda: len(set(back.bodies)) == 2 * runs + 2)
        eventually(lambda: not kept(tmp_path))
    assert set(lines) < set(back.bodies)


def test_a_claim_that_a_crash_left_behind_is_taken_up_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    """But one that is locked is somebody's."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    for _ in range(2):
        fabmon_run({**environment, "FABMON_TOKEN_FILE": "/nowhere"}, url, "--wait", "--", "true")
    files = list((tmp_path / "unsent").iterdir())
    locked, left = [path.rename(path.with_name(path.name + ".taken")) for path in files]
    with Sidecar(port).serving() as back, locked.open("rb") as holding:
        fcntl.flock(holding, fcntl.LOCK_EX)
        fabmon_run(environment, url, "--wait", "--", "true")
        assert len(back.bodies) == 4
        assert not left.exists()
        assert locked.exists()


def drip(listener: socket.socket) -> None:
    """Never finish an answer, and never be silent for long."""
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:
            return
        with suppress(OSError), connection:
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
        runs = 0

        def run() -> float:
            """How late it was, at the start or at the end."""
            nonlocal runs
            runs += 1
            begun = time.monotonic()
            running = [subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) for line in lines]
            for process in running:
                assert process.stdout is not None
                assert process.stdout.readline() == b"started\n"
            started = time.monotonic()
            for process in running:
                assert process.communicate(timeout=60)[0] == b""
                assert process.returncode == 0
            return max(started - begun, time.monotonic() - begun - 0.2 - 2.0)

        in_time(1.0, run)
        dripping.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(kept(tmp_path)) == 4 * runs


def test_a_refusal_is_said_in_one_line(sidecar: Sidecar, environment: dict[str, str], tmp_path: Path) -> None:
    sidecar.status = 422
    refused = fabmon_run(environment, sidecar.url, "--wait", "--", "sh", "-c", "exit 5")
    assert refused.returncode == 5
    assert refused.stderr == b"fabmon run: this job's report: the sidecar answered 422: this is site fab9\n"
    assert not kept(tmp_path)  # it would be refused for ever
    sidecar.status = 401
    assert fabmon_run(environment, sidecar.url, "--wait", "--", "true").stderr.count(b"401") == 1
    assert len(kept(tmp_path)) == 2  # the token can be mended


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
        (["--site", "fab 1", "--"], "site_id: expected 1 to 64 of the characters"),
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
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fabmon run: {said}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
