"""What a short run leaves behind: one process that sends, and nothing else."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.roles import eventually, free_port
from tests.fixtures.stub_sidecar import FABMON_RUN, Sidecar, fabmon_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def senders(url: str) -> list[int]:
    """The processes that send to *url*; one that is ending is not among them, and may still hold its files."""
    return [process for process, line in processes() if b"fabmon.sdk.sender" in line and url.encode() in line]


def processes() -> list[tuple[int, bytes]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((int(entry.name), (entry / "cmdline").read_bytes()))
            except OSError:
                continue
    return found


def started(url: str) -> list[int]:
    """The senders, once there is one: the run goes on before the name of what it started can be read."""
    eventually(lambda: senders(url))
    return senders(url)


def has_ended(pid: int) -> bool:
    """It has closed its files, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_it_sends_soon_and_goes(sidecar: Sidecar, environment: dict[str, str], tmp_path: Path) -> None:
    ended = time.monotonic()
    assert fabmon_run(environment, sidecar.url, "--", "true").returncode == 0
    assert [event["event"]["kind"] for event in sidecar.expect(2)] == ["started", "finished"]
    assert time.monotonic() - ended < 20
    eventually(lambda: not senders(sidecar.url))
    assert not list((tmp_path / "unsent").iterdir())


def test_many_short_runs_have_one_sender(sidecar: Sidecar, environment: dict[str, str]) -> None:
    """It lingers for a second: where a run takes longer than that there are more, so there is more than one try."""
    for tries in range(1, 5):
        seen: set[int] = set()
        for _ in range(5):
            fabmon_run(environment, sidecar.url, "--", "true")
            seen |= set(senders(sidecar.url))
        assert len({event["entity"]["id"] for event in sidecar.expect(10 * tries)}) == 5 * tries
        if len(seen) == 1:
            return
        eventually(lambda: not senders(sidecar.url))
    pytest.fail("more than one sender, every time")


def test_it_holds_nothing_that_somebody_waits_for(environment: dict[str, str]) -> None:
    """Neither our streams nor a descriptor that we inherited, such as a lock; nor a place in our session."""
    url = f"http://127.0.0.1:{free_port()}"
    reader, writer = os.pipe()
    line = [*FABMON_RUN, "--app", "x", "--url", url, "--", "true"]
    subprocess.run(line, env=environment, capture_output=True, pass_fds=[writer], timeout=60, check=True)
    os.close(writer)
    (sender,) = started(url)
    assert select.select([reader], [], [], 9.0)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert os.getsid(sender) == sender
    os.kill(sender, signal.SIGTERM)
    eventually(lambda: not senders(url))


def test_what_it_had_in_hand_when_it_was_killed_is_sent_by_the_next(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    fabmon_run(environment, url, "--", "true")
    (sender,) = started(url)
    os.kill(sender, signal.SIGKILL)
    eventually(lambda: has_ended(sender))
    with Sidecar(port).serving() as back:
        fabmon_run(environment, url, "--", "true")
        back.expect(4)
    assert len(set(back.bodies)) == 4


def test_it_does_not_wait_for_what_it_cannot_have(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path
) -> None:
    fabmon_run({**environment, "FABMON_TOKEN_FILE": "/nowhere"}, sidecar.url, "--wait", "--", "true")
    (kept,) = (tmp_path / "unsent").iterdir()
    with kept.rename(kept.with_name(kept.name + ".taken")).open("rb") as claimed:
        fcntl.flock(claimed, fcntl.LOCK_EX)
        fabmon_run(environment, sidecar.url, "--", "true")
        assert len(sidecar.expect(2)) == 2
        eventually(lambda: not senders(sidecar.url))


def test_its_trouble_is_said_by_the_next_run_and_forgotten_when_it_is_over(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path
) -> None:
    sidecar.status = 401
    assert fabmon_run(environment, sidecar.url, "--", "true").stderr == b""
    eventually(lambda: not senders(sidecar.url))
    again = fabmon_run(environment, sidecar.url, "--", "sh", "-c", "exit 4")
    assert again.returncode == 4
    assert again.stderr.startswith(b"fabmon run: an earlier report: the sidecar answered 401")
    eventually(lambda: not senders(sidecar.url))
    sidecar.status = 200
    fabmon_run(environment, sidecar.url, "--", "true")
    sidecar.expect(6)
    eventually(lambda: not senders(sidecar.url))
    assert fabmon_run(environment, sidecar.url, "--", "true").stderr == b""


@pytest.mark.parametrize("init", ["tini", "systemd", "bash"])
def test_below_who_ends_all_at_our_end_the_run_sends_by_itself(
    sidecar: Sidecar, environment: dict[str, str], init: str
) -> None:
    parent = (
        "import subprocess, sys; from pathlib import Path\n"
        "Path('/proc/self/comm').write_text(sys.argv[1]); subprocess.run(sys.argv[2:], check=True)"
    )
    line = [sys.executable, "-c", parent, init, *FABMON_RUN, "--app", "x", "--url", sidecar.url, "--", "true"]
    sidecar.status = 503 if init == "bash" else 200  # a sender insists, and a run that sends does not
    subprocess.run(line, env=environment, timeout=60, check=True)
    if init == "bash":
        started(sidecar.url)
    else:
        assert not senders(sidecar.url)
    sidecar.status = 200
    assert len(sidecar.expect(2)) == 2


def test_where_nothing_can_be_written_the_run_sends_by_itself(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = fabmon_run({**environment, "FABMON_DATA_DIR": str(tmp_path / "file")}, sidecar.url, "--", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(sidecar.bodies) == 2
    assert not senders(sidecar.url)


@pytest.mark.parametrize("away", [False, True])
def test_a_full_disk_costs_the_report_at_most(sidecar: Sidecar, environment: dict[str, str], away: bool) -> None:
    url = f"http://127.0.0.1:{free_port()}" if away else sidecar.url
    full = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    full += "os.execv(sys.argv[1], sys.argv[1:])"
    line = [sys.executable, "-c", full, *FABMON_RUN, "--app", "x", "--url", url, "--", "sh", "-c", "exit 3"]
    done = subprocess.run(line, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.count(b"events cannot be kept") == done.stderr.count(b"\n") == away
    assert len(sidecar.bodies) == (0 if away else 2)


def test_the_reports_of_a_long_outage_lie_in_few_files(
    sidecar: Sidecar, environment: dict[str, str], tmp_path: Path
) -> None:
    sidecar.status = 401  # which nobody waits to get over
    for _ in range(3):
        fabmon_run(environment, sidecar.url, "--", "true")
        eventually(lambda: not senders(sidecar.url))
    (file,) = (tmp_path / "unsent").iterdir()
    assert len(file.read_bytes().splitlines()) == 6
