"""The emitter against a silent sidecar, one that fails for a while, a clock that stands still, a handler in between."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from fabmon.clock import now
from fabmon.sdk.address import read_address
from fabmon.sdk.emitter import Emitter
from fabmon.sdk.events import Draft
from fabmon.wire.event import Entity, Happening
from fabmon.wire.ids import app_of
from tests.fixtures.programs import clean_environment, python
from tests.fixtures.roles import eventually, free_port
from tests.fixtures.stub_sidecar import Sidecar
from tests.fixtures.timing import in_time


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def kept(data_dir: Path) -> list[bytes]:
    return [line for path in (data_dir / "unsent").glob("*.jsonl") for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_piles_up_behind_a_silent_sidecar_goes_to_disk_before_it_has_timed_out(
    silent: str, tmp_path: Path, scheme: str
) -> None:
    app = app_of("x")
    draft = Draft("fab1", app, Entity("job", app.app_id), Happening("progress", now()))
    places = (tmp_path / str(n) for n in count())
    emitters: list[tuple[Path, Emitter]] = []

    def pile_up() -> float:
        place = next(places)
        emitter = Emitter(read_address(silent.replace("http", scheme)), "test", {"FABMON_DATA_DIR": str(place)})
        emitters.append((place, emitter))
        begun = time.monotonic()
        for _ in range(4000):
            emitter.send(draft)
        eventually(lambda: len(kept(place)) >= 2000)
        return time.monotonic() - begun

    in_time(1.2, pile_up)  # it waits 1.5 s for an answer
    for place, emitter in emitters:
        assert emitter.close() is None
        assert len(kept(place)) == 4000


def test_an_end_in_the_middle_of_a_batch_leaves_each_event_once(tmp_path: Path) -> None:
    app = app_of("x")
    making, go_on = threading.Event(), threading.Event()

    class Slow(Draft, frozen=True):
        """Its first line takes until the program has ended; whoever asks again is not held up."""

        def line(self) -> bytes:
            if not making.is_set():
                making.set()
                go_on.wait(20)
            return super().line()

    with Sidecar().serving() as sidecar:
        emitter = Emitter(read_address(sidecar.url), "test", {"FABMON_DATA_DIR": str(tmp_path)})
        emitter.send(Slow("fab1", app, Entity("job", app.app_id), Happening("progress", now())))
        assert making.wait(20)
        assert emitter.close(None, 0.1) is None
        go_on.set()
        eventually(lambda: "fabmon-emitter" not in [thread.name for thread in threading.enumerate()])
        assert len(kept(tmp_path)) + len(sidecar.events) == 1


def test_a_burst_against_a_silent_sidecar_is_kept_whole_in_little_memory(silent: str, tmp_path: Path) -> None:
    program = (
        "import fabmon, resource\n"
        "with fabmon.job('x') as job:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    for n in range(30_000): job.progress(n, 30_000)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = python(program, silent, tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < 30 * 1024
    lines = kept(tmp_path)
    assert len(set(lines)) == 30_002
    assert len(list((tmp_path / "unsent").iterdir())) < 100


def test_a_sidecar_known_to_be_silent_is_not_waited_for_at_the_end(silent: str, tmp_path: Path) -> None:
    program = "import fabmon, time\nwith fabmon.job('x'): time.sleep(2.2)\nprint('done', flush=True)"
    environment = {**clean_environment(tmp_path), "FABMON_URL": silent}
    runs = 0

    def run() -> float:
        nonlocal runs
        runs += 1
        with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"done\n"
            done = time.monotonic()
            assert running.wait(30) == 0
            return time.monotonic() - done

    in_time(1.0, run)
    assert len(kept(tmp_path)) == 2 * runs


def test_what_was_kept_while_the_sidecar_failed_is_sent_by_the_same_job_when_it_is_back(tmp_path: Path) -> None:
    program = (
        "import fabmon, sys, fabmon.sdk.emitter as emitter\n"
        "emitter.FIRST_RETRY_SECONDS = 0.05\n"
        "with fabmon.job('x') as job:\n"
        "    sys.stdin.readline(); job.progress(0.5); sys.stdin.readline()\n"
    )
    with Sidecar().serving() as sidecar:
        environment = {**clean_environment(tmp_path), "FABMON_URL": sidecar.url}
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as running:
            assert running.stdin is not None
            eventually(lambda: len(sidecar.bodies) == 1)
            sidecar.status = 500
            running.stdin.write(b"\n")
            running.stdin.flush()
            eventually(lambda: kept(tmp_path))
            sidecar.status = 200
            # What was taken while the answer became a 500 comes again.
            eventually(lambda: len(set(sidecar.bodies)) == 2)
            running.communicate(b"\n", timeout=60)
    assert {event["event"]["kind"] for event in sidecar.events} == {"started", "progress", "finished"}
    assert kept(tmp_path) == []


def test_events_stay_in_order_when_the_clock_stands_still(tmp_path: Path) -> None:
    program = (
        "import fabmon, fabmon.sdk.context as context\n"
        "moment = context.now(); context.now = lambda: moment\n"
        "with fabmon.job('x') as job: [job.progress(n, 5) for n in range(6)]\n"
    )
    with Sidecar().serving() as sidecar:
        assert python(program, sidecar.url, tmp_path).returncode == 0
    ats = [event["event"]["at"] for event in map(json.loads, sidecar.bodies)]
    assert len(ats) == 8
    assert ats == sorted(set(ats))


HALF_AN_HOUR = """
import fabmon, sys, threading, time
from datetime import timedelta
from fabmon.sdk import context, emitter

skipped = 0.0
begin = context.now(), time.monotonic()

def monotonic():
    return time.monotonic() + skipped

class Condition(threading.Condition):
    # Waits until the fake clock, not the real one, says that it is time.
    def wait_for(self, predicate, timeout=None):
        until = float("inf") if timeout is None else monotonic() + timeout
        while not predicate() and monotonic() < until:
            self.wait(0.001)
        return predicate()

emitter.threading.Condition = Condition
emitter.monotonic = context.monotonic = monotonic
context.now = lambda: begin[0] + timedelta(seconds=monotonic() - begin[1])

with fabmon.job("etch") as job:
    for minute in range(1, 31):
        skipped += 60
        job.progress(minute, 30)
        time.sleep(0.01)
        if minute == 29:
            print("away", flush=True)
            sys.stdin.readline()
    sys.stdin.readline()
"""


def test_half_an_hour_without_the_sidecar_and_then_it_is_back(tmp_path: Path) -> None:
    """By a fake clock. All is on disk meanwhile; a minute later, at the latest, the running job has sent it."""
    port = free_port()
    environment = {**clean_environment(tmp_path), "FABMON_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-c", HALF_AN_HOUR]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as running:  # type: ignore[call-overload]
        assert running.stdout.readline() == b"away\n"
        eventually(lambda: len(kept(tmp_path)) == 30)  # a kill -9 here would lose nothing
        with Sidecar(port).serving() as back:
            running.stdin.write(b"\n")
            running.stdin.flush()
            eventually(lambda: len(set(back.bodies)) == 31)  # while it runs
            running.communicate(b"\n", timeout=60)
    assert running.returncode == 0
    assert kept(tmp_path) == []
    happened = [json.loads(body)["event"] for body in set(back.bodies)]
    assert sorted(each["metrics"].get("progress_done", 0) for each in happened) == [0, 0, *range(1, 31)]
    assert next(each for each in happened if each["kind"] == "finished")["metrics"]["duration_s"] >= 1800


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_handler_that_reports_interrupts_a_report(sidecar: Sidecar, tmp_path: Path) -> None:
    program = (
        "import fabmon, os, signal, threading\n"
        "with fabmon.job('x') as job:\n"
        "    signal.signal(signal.SIGALRM, lambda *_: job.metric(ticks=1))\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "    for n in range(3000): job.progress(n, 3000)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(sidecar.events) > 3002
