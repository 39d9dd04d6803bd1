"""`fabmon run`: the end of a failed program's stderr, whatever stderr is, without standing in the way."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.roles import eventually
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors and /dev/fd")

CASES = [
    ("echo before >&2; echo 'no such lot' >&2; exit 3", [], "before\nno such lot"),
    ("echo fine >&2; exit 0", [], None),
    ("echo secret >&2; exit 3", ["--no-stderr"], None),
    ("exit 3", [], None),
    ("yes line | head -c 100000 >&2; echo last >&2; exit 1", [], "...last"),
]


def tail(sidecar: Sidecar) -> str | None:
    found: str | None = sidecar.expect(2)[-1]["event"]["metadata"].get("stderr_tail")
    return found


def check(found: str | None, expected: str | None) -> None:
    if expected is not None and expected.startswith("..."):
        assert found is not None
        assert found.endswith(expected[3:])
        assert 4000 <= len(found) <= 4096
    else:
        assert found == expected


@pytest.mark.parametrize(("script", "flags", "expected"), CASES)
def test_of_a_file(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path, script: str, flags: list[str], expected: str | None
) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, *flags, "--", "sh", "-c", script]
    with log.open("a") as stderr:
        subprocess.run(line, env=environment, stderr=stderr, timeout=60, check=False)
    check(tail(sidecar), expected)


@pytest.mark.parametrize(("script", "flags", "expected"), CASES)
def test_of_a_pipe(
    sidecar: Sidecar, environment: dict[str, str], script: str, flags: list[str], expected: str | None
) -> None:
    plain = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=False)
    done = fabmon_run(environment, sidecar.url, *flags, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    check(tail(sidecar), expected)


def test_of_one_pipe_for_both_the_order_stays(sidecar: Sidecar, environment: dict[str, str]) -> None:
    script = "for n in $(seq 200); do echo out $n; echo err $n >&2; done; exit 1"
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", "sh", "-c", script]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 60, "check": False}
    done = subprocess.run(line, env=environment, **both)  # type: ignore[call-overload]
    assert done.stdout.split() == [word for n in range(1, 201) for word in (b"out", b"%d" % n, b"err", b"%d" % n)]
    assert (tail(sidecar) or "").endswith("out 200\nerr 200")


def test_of_a_terminal_nothing_is_taken(sidecar: Sidecar, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    script = "test -t 2 && echo is a terminal >&2; exit 1"
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", "sh", "-c", script]
    subprocess.run(line, env=environment, stderr=theirs, timeout=60, check=False)
    assert b"is a terminal" in os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)
    assert tail(sidecar) is None


def test_a_daemon_goes_on_writing_and_is_not_waited_for(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path
) -> None:
    """And its reader sees the end when the daemon closes, not before."""
    script = (
        f'(until [ -e "{tmp_path}/go" ]; do sleep 0.02; done; echo late >&2; echo later >&2) & echo soon >&2; exit 2'
    )
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", "sh", "-c", script]
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        assert running.wait(30) == 2
        (tmp_path / "go").touch()
        assert running.stderr is not None
        assert running.stderr.read() == b"soon\nlate\nlater\n"
    assert tail(sidecar) == "soon"


def test_a_program_whose_wrapper_is_killed_goes_on_writing(environment: dict[str, str], tmp_path: Path) -> None:
    go, there = tmp_path / "go", tmp_path / "there"
    script = f'echo ready >&2; until [ -e "{go}" ]; do sleep 0.02; done; echo more >&2 && touch "{there}"'
    line = [*FABMON_RUN, "--app", "x", "--url", "http://127.0.0.1:1", "--", "sh", "-c", script]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == b"ready\n"
        running.kill()
        running.wait(30)
        go.touch()
        assert running.stderr.readline() == b"more\n"
        eventually(there.exists)


def test_nobody_reads_and_the_program_ends_as_without_us(sidecar: Sidecar, environment: dict[str, str]) -> None:
    """SIGPIPE for the program; a reader that is slow for good costs the end half a second."""
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", "sh", "-c", "while :; do echo x >&2; done"]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        running.stderr.close()
        assert running.wait(30) == 128 + signal.SIGPIPE
    script = "head -c 100000 /dev/zero >&2; exit 1"
    with subprocess.Popen([*line[:-1], script], env=environment, stderr=subprocess.PIPE) as running:
        begun = time.monotonic()
        assert running.wait(30) == 1
        assert time.monotonic() - begun < 10
        assert running.stderr is not None
        assert len(running.stderr.read()) == 100_000


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "2>/dev/full", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("echo a >&2; sleep 0.05; echo b >&2; exit 3", 3),
        # what is closed is closed for the program, too, and none of ours is there instead
        ('for n in 0 1 2; do [ ! -p /dev/fd/$n ] || exit 9; done; [ "$FABMON_EVENTS_FD" -gt 2 ] || exit 8', 0),
        (None, 127),
    ],
)
def test_streams_that_are_closed_or_full_change_nothing(
    sidecar: Sidecar, environment: dict[str, str], closed: str, script: str | None, code: int
) -> None:
    command = ["/nonexistent"] if script is None else ["sh", "-c", script]
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", *command]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *line]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run(shell, env=environment, timeout=60, check=False, **streams).returncode == code  # type: ignore[call-overload]
    assert sidecar.expect(2)[-1]["event"]["status"] == ("failed" if code else "succeeded")
