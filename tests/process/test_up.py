"""`fabmon up`: everything on one machine, as a newcomer starts it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.fixtures.roles import Service, eventually, free_port
from tests.make import event_dict


class Up:
    """A running `fabmon up`, and its three services."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, ports: dict[str, int]) -> None:
        self.process, self._log = process, log
        self.local, self.sidecar, self.central = (
            Service(role, {}, ports[role], log) for role in ("local", "sidecar", "central")
        )

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def running(data_dir: Path, *flags: str) -> Iterator[Up]:
    ports = {role: free_port() for role in ("local", "sidecar", "central")}
    log = data_dir / "up.log"
    command = [sys.executable, "-m", "fabmon", "up", "--data-dir", str(data_dir / "data"), *flags]
    for role, port in ports.items():
        command += [f"--{role}-port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    up = Up(process, log, ports)
    try:
        eventually(lambda: "\nready\n" in up.log or process.poll() is not None, 60, lambda: up.log)
        yield up
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) is not None


def test_up_with_the_demo_shows_a_fab_at_work_and_stops_cleanly(data_dir: Path) -> None:
    with running(data_dir, "--demo") as up:
        lines = [line.split() for line in up.log.splitlines() if not line.startswith(("{", "2"))]
        assert [line[0] for line in lines] == ["local", "sidecar", "central", "demo", "ready"]
        eventually(lambda: len(up.central.get("/v1/jobs?site=fab1&limit=200").json["items"]) > 40, 30)
        jobs = up.central.get("/v1/jobs?site=fab1&limit=200").json["items"]
        assert {"running", "succeeded"} <= {job["status"] for job in jobs}
        assert up.central.get("/v1/subjobs?site=fab1&limit=500").json["count"] > 100
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(60) == 0, up.log
    assert "Traceback" not in up.log
    with running(data_dir) as again:
        found = again.central.get("/v1/jobs?site=fab1&limit=200").json["items"]
        assert {job["job_id"] for job in jobs} <= {job["job_id"] for job in found}


def test_a_second_start_on_the_same_directory_says_who_holds_it(data_dir: Path) -> None:
    with running(data_dir) as up, running(data_dir) as second:
        assert second.process.wait(30) == 1
        assert f"process {up.process.pid}" in second.log


def test_a_port_that_another_holds_ends_the_start_with_its_name(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "fabmon", "up", "--data-dir", str(data_dir / "data"), "--central-port", port]
        command += ["--sidecar-port", str(free_port()), "--local-port", str(free_port())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} for central cannot be had" in done.stderr


def test_a_start_warns_of_nothing(data_dir: Path) -> None:
    with running(data_dir) as up:
        assert "upstream.lost" not in up.log


@pytest.mark.parametrize("role", ["sidecar", "local", "central"])
def test_a_role_that_is_killed_is_started_again_and_nothing_is_lost(data_dir: Path, role: str) -> None:
    with running(data_dir) as up:
        before = event_dict()
        assert up.sidecar.post("/v1/ingest/events", before).status == 200
        os.kill(_pid_of(up.process.pid, role), signal.SIGKILL)
        eventually(lambda: "service.ended" in up.log)
        service = {"sidecar": up.sidecar, "local": up.local, "central": up.central}[role]
        eventually(lambda: _is_ready(service), 30, lambda: up.log)
        after = event_dict()
        assert up.sidecar.post("/v1/ingest/events", after).status == 200
        wanted = {before["entity"]["id"], after["entity"]["id"]}
        eventually(lambda: {job["job_id"] for job in _jobs(up.central)} == wanted, 30, lambda: up.log)


def test_when_up_itself_is_killed_its_roles_stop(data_dir: Path) -> None:
    with running(data_dir) as up:
        pids = [_pid_of(up.process.pid, role) for role in ("sidecar", "local", "central")]
        up.process.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 30)


def _is_ready(service: Service) -> bool:
    try:
        return service.get("/readyz", timeout=5).status == 200
    except (OSError, HTTPException):
        return False


def _jobs(central: Service) -> list[dict[str, str]]:
    reply = central.get("/v1/jobs?site=fab1")
    found: list[dict[str, str]] = reply.json["items"] if reply.status == 200 else []
    return found


def _pid_of(parent: int, role: str) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            stat = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[1]) == parent and role.encode() in command:
            return int(path.name)
    raise AssertionError(f"{role} is no child of {parent}")
