"""What the sidecar's benchmarks share: its site (a stub), its limit (a server that only decodes), one measured round.

The stub and the load generator share the cores with what is measured; both are bare protocols over uvloop.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection

import msgspec
import uvloop
from tests.fixtures.roles import eventually, free_port

from benchmarks.data import batches, events
from benchmarks.load import post_all
from fabmon.wire.codec import encode

_TICKS = os.sysconf("SC_CLK_TCK")


class Shape(msgspec.Struct, frozen=True):
    """How the events come: *events* per request, *requests* in a round, over so many *connections*."""

    name: str
    path: str
    events: int
    requests: int
    connections: int

    @property
    def total(self) -> int:
        return self.events * self.requests

    def bodies(self) -> list[bytes]:
        if self.events == 1:
            return [encode(event) for event in events(self.requests, seed=1)]
        return batches(self.requests, self.events, seed=1)


SINGLE = Shape("single", "/v1/ingest/events", 1, 16_000, 64)
BATCH = Shape("batch", "/v1/ingest/events:batch", 100, 1_200, 8)


class Round(msgspec.Struct):
    """Events a second, and what the measured process spent on one."""

    rate: float
    cpu_us: float
    latencies: list[float]


class Program:
    """A module of ours in a process of its own."""

    def __init__(self, module: str, arguments: Sequence[str], port: int | None) -> None:
        self.port = port or free_port()
        command = [sys.executable, "-m", module, str(self.port), *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(self._listens, 20)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def count(self) -> int:
        """How many events a stub site has taken."""
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/count")
        return int(connection.getresponse().read())


@contextmanager
def program(module: str, *arguments: str, port: int | None = None) -> Iterator[Program]:
    started = Program(module, arguments, port)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def measure(port: int, pid: int, shape: Shape, bodies: Sequence[bytes], site: Program | None = None) -> Round:
    """Send all *bodies*; with *site*, until it has them too."""
    before = site.count() if site else 0
    cpu, begun = cpu_seconds(pid), time.perf_counter()
    load = uvloop.run(post_all(port, shape.path, bodies, shape.connections))
    assert load.failures == 0
    if site:
        eventually(lambda: site.count() - before >= shape.total, 30)
    seconds = time.perf_counter() - begun
    return Round(shape.total / seconds, (cpu_seconds(pid) - cpu) / shape.total * 1e6, load.latencies)


def cpu_seconds(pid: int) -> float:
    """What a process has used, all its threads, in user and kernel."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - three times as fast
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
