"""`fabmon run`: what a program says on FABMON_EVENTS_FD, and the end of its stderr."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fabmon.sdk.lines import read_line
from tests.fixtures.programs import clean_environment
from tests.fixtures.roles import eventually, free_port
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors and /dev/fd")


@pytest.mark.parametrize(
    ("line", "metrics", "metadata"),
    [
        (b"progress 0.5", {"progress": 0.5}, {}),
        (b"  progress 3/12\r", {"progress": 0.25}, {}),
        (b"metric temperature_c=61.5 wafers=25", {"temperature_c": 61.5, "wafers": 25.0}, {}),
        (b'{"progress": 1, "metrics": {"x": 2}, "metadata": {"a": [1]}}', {"progress": 1, "x": 2}, {"a": [1]}),
        (b'{"metadata": {"step": "etch"}}', {}, {"step": "etch"}),
    ],
)
def test_lines_that_are_understood(line: bytes, metrics: dict[str, float], metadata: dict[str, Any]) -> None:
    said = read_line(line)
    assert said is not None
    assert (said.metrics, said.metadata) == (metrics, metadata)
    assert said.kind == ("progress" if "progress" in metrics else "metric")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"hello", b"progress", b"progress x", b"progress 1/0", b"progress nan", b"metric", b"metric a", b"metric a=x",
        b"{}", b"{", b"[1]", b'{"metrics": 1}', b'{"progress": "far"}', b'{"other": 1}', b"\xff\xfe", b"progress 1/",
    ],
)  # fmt: skip
def test_lines_that_are_not(line: bytes) -> None:
    assert read_line(line) is None


def test_a_shell_script_reports_its_progress(sidecar: Sidecar, tmp_path: Path) -> None:
    script = (
        'say() { echo "$@" >&"$FABMON_EVENTS_FD"; }\n'
        "say progress 1/4; say what; say metric wafers=25; say progress 4/4; printf 'progress 0.9' >&$FABMON_EVENTS_FD\n"
    )
    done = fabmon_run(clean_environment(tmp_path), sidecar.url, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    said = [event["event"] for event in sidecar.expect(6)]
    assert [event["kind"] for event in said] == ["started", "progress", "metric", "progress", "progress", "finished"]
    assert [event["metrics"] for event in said[1:-1]] == [
        {"progress": 0.25}, {"wafers": 25.0}, {"progress": 1.0}, {"progress": 0.9},
    ]  # fmt: skip
    assert said[-1]["metadata"]["event_lines_not_understood"] == 1


def test_a_daemon_that_keeps_the_descriptor_is_not_waited_for(sidecar: Sidecar, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = fabmon_run(
        clean_environment(tmp_path), sidecar.url, "--",
        "sh", "-c", 'echo progress 1 >&$FABMON_EVENTS_FD; sleep 60 >/dev/null 2>&1 & exit 0',
    )  # fmt: skip
    assert done.returncode == 0
    assert time.monotonic() - begun < 30
    assert len(sidecar.expect(3)) == 3


def test_a_flood_of_lines_does_not_hold_the_program_up(tmp_path: Path) -> None:
    program = (
        "import os\nfd = int(os.environ['FABMON_EVENTS_FD'])\nfor n in range(20_000): os.write(fd, b'progress 0.5\\n')"
    )
    url = f"http://127.0.0.1:{free_port()}"
    done = fabmon_run(clean_environment(tmp_path), url, "--", sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (0, b"")
    kept = [line for path in (tmp_path / "unsent").iterdir() for line in path.read_bytes().splitlines()]
    assert len(kept) == 20_002


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the pipe has one end only")
def test_a_program_survives_the_death_of_its_wrapper(sidecar: Sidecar, tmp_path: Path) -> None:
    there = tmp_path / "there"
    script = f'echo $$; sleep 0.5; echo progress 1 >&$FABMON_EVENTS_FD; touch "{there}"'
    line = [*FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", "sh", "-c", script]
    with subprocess.Popen(line, env=clean_environment(tmp_path), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.send_signal(signal.SIGKILL)
        running.wait(30)
        eventually(there.exists)
