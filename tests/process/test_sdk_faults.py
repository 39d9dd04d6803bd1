"""Whatever befalls sidecar, disk or process: the job's own result does not change, and what can be kept is kept."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.programs import python
from tests.fixtures.roles import free_port
from tests.fixtures.stub_sidecar import Sidecar
from tests.fixtures.timing import in_time

JOB = "import fabmon\nwith fabmon.job('x') as job:\n    job.progress(0.5)\nprint('done')\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals")


@contextmanager
def silent_sidecar() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def kept(data_dir: Path) -> list[bytes]:
    return [line for path in sorted((data_dir / "unsent").glob("*")) for line in path.read_bytes().splitlines()]


def test_a_dead_sidecar_costs_nothing_and_the_next_program_reports_both(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    runs = 0

    def run() -> float:
        nonlocal runs
        runs += 1
        begun = time.monotonic()
        done = python(JOB, url, tmp_path)
        took = time.monotonic() - begun
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
        assert len(kept(tmp_path)) == 3 * runs
        return took

    in_time(1.5, run)
    with Sidecar(port).serving() as back:
        python(JOB, url, tmp_path)
    assert len(back.events) == 3 * runs + 3
    assert len({event["idempotency_key"] for event in back.events}) == 3 * runs + 3
    assert kept(tmp_path) == []


def test_a_silent_sidecar_costs_at_most_the_flush(tmp_path: Path) -> None:
    def run() -> float:
        begun = time.monotonic()
        done = python(JOB, url, tmp_path)
        took = time.monotonic() - begun
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
        assert {json.loads(line)["event"]["kind"] for line in kept(tmp_path)} == {"started", "progress", "finished"}
        return took

    with silent_sidecar() as url:
        in_time(2.0 + 1.0, run)


@pytest.mark.parametrize(("status", "stays", "said"), [(500, 3, 0), (503, 3, 0), (401, 3, 1), (422, 0, 1)])
def test_a_sidecar_that_says_no(sidecar: Sidecar, tmp_path: Path, status: int, stays: int, said: int) -> None:
    sidecar.status = status
    done = python(JOB, sidecar.url, tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("fabmon:") == done.stderr.count("\n") == said
    assert len(kept(tmp_path)) == stays


@pytest.mark.parametrize("url", ["ftp://x", "http://127.0.0.1:1", "http://no-such-host.invalid:8000"])
@pytest.mark.parametrize("home", ["file", "/sys/fabmon", "/proc/fabmon"])
def test_no_place_to_send_to_and_none_to_keep(tmp_path: Path, url: str, home: str) -> None:
    (tmp_path / "file").touch()  # none of these can be made, whoever asks
    done = python(JOB, url, tmp_path / home)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_and_no_sidecar_are_said_once(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    done = python(limit + JOB.replace("print('done')", "import os"), f"http://127.0.0.1:{free_port()}", tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "events cannot be kept" in done.stderr


def test_a_slow_sidecar_slows_nobody(sidecar: Sidecar, tmp_path: Path) -> None:
    sidecar.delay_seconds = 1.2  # ten batches that are waited for would take twelve seconds
    program = (
        "import fabmon, time\n"
        "with fabmon.job('x') as job:\n"
        "    begun = time.monotonic()\n"
        "    for n in range(5000): job.progress(n, 5000)\n"
        "    assert time.monotonic() - begun < 5, 'it waited'\n"
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    sidecar.delay_seconds = 0.0
    runs = 0
    while kept(tmp_path) or not runs:  # each has half a second for what others have left
        python(JOB, sidecar.url, tmp_path)
        runs += 1
        assert runs < 30
    assert len({event["idempotency_key"] for event in sidecar.events}) == 5002 + 3 * runs


def test_a_job_that_raises_on_its_way_out(sidecar: Sidecar, tmp_path: Path) -> None:
    """In the `__exit__` of something inside it, and with an error that cannot even be shown."""
    program = (
        "import contextlib, fabmon\n"
        "class Broken(Exception):\n"
        "    def __str__(self): raise RuntimeError('no words')\n"
        "    __repr__ = __str__\n"
        "class Tool:\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): raise self.error\n"
        "for error in (ValueError('door is open'), Broken()):\n"
        "    tool = Tool(); tool.error = error\n"
        "    try:\n"
        "        with fabmon.job('x'), tool: pass\n"
        "    except Exception as seen: assert seen is error\n"
        "    else: raise SystemExit('the error is gone')\n"
        "with contextlib.ExitStack() as stack:\n"
        "    stack.push(lambda *_: True)\n"  # swallows
        "    stack.enter_context(fabmon.job('y')); stack.enter_context(tool)\n"
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = [event["event"]["metadata"]["error"] for event in sidecar.events if event["event"]["kind"] == "error"]
    assert said == ["ValueError: door is open", "Broken", "Broken"]


def test_a_thousand_threads(sidecar: Sidecar, tmp_path: Path) -> None:
    program = (
        "import fabmon, threading\n"
        "with fabmon.job('top') as top:\n"
        "    def work(n):\n"
        "        with top.subjob(f'{n}') as sub: sub.progress(1.0)\n"
        "    threads = [threading.Thread(target=work, args=[n]) for n in range(1000)]\n"
        "    [t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    done = python(program, sidecar.url, tmp_path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    events = sidecar.events
    assert len(events) == 3002
    assert len({event["entity"]["parent_id"] for event in events}) == 2
    assert len({event["entity"]["id"] for event in events}) == 1001
    assert sidecar.batches < 300


def test_flush_before_os_exit(sidecar: Sidecar, tmp_path: Path) -> None:
    program = JOB.replace("print('done')", "assert fabmon.flush()") + "import os; os._exit(5)"
    assert python(program, sidecar.url, tmp_path).returncode == 5
    assert len(sidecar.events) == 3


def test_a_job_that_ends_while_the_interpreter_does(sidecar: Sidecar, tmp_path: Path) -> None:
    program = (
        "import atexit\n"
        "@atexit.register\n"  # registered before fabmon, so called after it has closed
        "def late():\n"
        "    with fabmon.job('late'): pass\n"
        "import fabmon\n"
        "with fabmon.job('x'): pass\n"
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(sidecar.bodies) + len(kept(tmp_path)) == 4


def test_a_sidecar_that_drops_idle_connections_loses_nothing(tmp_path: Path) -> None:
    """It answers one request on each connection, says keep-alive, and closes."""
    taken: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                length = 0
                while (line := file.readline()).strip():
                    if line.lower().startswith(b"content-length"):
                        length = int(line.split(b":")[1])
                taken.append(file.read(length))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}')

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        program = (
            "import fabmon, time\nwith fabmon.job('x') as job:\n for n in range(4): job.progress(n); time.sleep(0.1)"
        )
        done = python(program, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(len(json.loads(body)) for body in taken) == 6
    assert len(taken) > 2
    assert kept(tmp_path) == []


def test_unreadable_values_are_kept_as_their_repr(sidecar: Sidecar, tmp_path: Path) -> None:
    program = (
        "import fabmon\n"
        "class Tool:\n"
        "    def __repr__(self): return 'Tool(7)'\n"
        "class Broken:\n"
        "    def __repr__(self): raise RuntimeError\n"
        "loop = []; loop.append(loop)\n"
        "with fabmon.job('x', key='k' * 600, metadata={'tool': Tool(), 'broken': Broken(), 'loop': loop, 7: 'seven',\n"
        "        'nul': 'a\\0b', 'surrogate': '\\udc80', 'large': 'y' * 100_000, 'in': {'deep': Tool()}}): pass\n"
    )
    done = python(program, sidecar.url, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    started = sidecar.events[0]  # which checks it as a sidecar would
    metadata = started["event"]["metadata"]
    assert metadata["tool"] == "Tool(7)"
    assert metadata["broken"] == "<Broken>"
    assert metadata["in"] == {"deep": "Tool(7)"}
    assert metadata["7"] == "seven"
    assert len(started["entity"]["business_key"]) == 500
    assert os.environ.get("FABMON_URL") is None
