"""What a call of the SDK costs the job, with a healthy sidecar, a dead one and one that accepts and never answers.

Two loads, each in a process of its own: `paced`, a call every millisecond, and `burst`, 100,000 calls as fast as they go.
Limits: p50 50 µs, p99 1 ms, the burst's process below 50 MB.
The healthy sidecar is a real one whose site is away, so each of its answers has waited for an fsync.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.fixtures.roles import Service, free_port

from benchmarks.bench import finish, result

P50_LIMIT_US, P99_LIMIT_US, MEMORY_LIMIT_MB = 50.0, 1000.0, 50.0
ROUNDS = 3
LOADS = {"paced": (3_000, 0.001), "burst": (100_000, 0.0)}

PROGRAM = """
import json, sys, time, fabmon
calls, pause = int(sys.argv[1]), float(sys.argv[2])
clock, took, bare = time.perf_counter_ns, [], []
with fabmon.job("bench", app="bench") as job:
    for n in range(200): job.progress(n, 200)
    for n in range(calls):
        begun = clock(); job.progress(n, calls); took.append(clock() - begun)
        if pause: time.sleep(pause)
# Not ru_maxrss: before its exec this process shared the memory of the benchmark, and that counts there.
memory = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
for n in range(calls // 10):
    begun = clock(); json.dumps({"progress_done": n, "progress_total": calls}); bare.append(clock() - begun)
    if pause: time.sleep(pause)
took.sort()
bare.sort()
us = [took[calls // 2] / 1e3, took[calls * 99 // 100] / 1e3, took[-1] / 1e3]
print(json.dumps({"p50": us[0], "p99": us[1], "top": us[2], "mb": memory, "bare": bare[len(bare) // 2] / 1e3}))
"""


class Figures(msgspec.Struct):
    """Of one process: microseconds a call, MB at most. *bare*: p50 of `json.dumps` at the same pace, for comparison.

    *said*: its stderr, where lost events would be named.
    """

    p50: float
    p99: float
    top: float
    mb: float
    bare: float
    said: str = ""


def main() -> None:
    worst = Figures(0, 0, 0, 0, 0)
    table = [f"{'sidecar':9}{'load':7}{'p50 µs':>9}{'p99 µs':>9}{'max µs':>9}{'MB':>7}{'dumps p50':>11}  said"]
    for sidecar in ("healthy", "dead", "silent"):
        for load, (calls, pause) in LOADS.items():
            rounds = sorted((measure(sidecar, calls, pause) for _ in range(ROUNDS)), key=lambda one: one.p99)
            one = rounds[ROUNDS // 2]
            table.append(
                f"{sidecar:9}{load:7}{one.p50:9.1f}{one.p99:9.1f}{one.top:9.0f}"
                f"{one.mb:7.1f}{one.bare:11.1f}  {one.said or '-'}"
            )
            worst = Figures(max(worst.p50, one.p50), max(worst.p99, one.p99), 0, max(worst.mb, one.mb), 0)
    results = [
        result("sdk", worst.mb, MEMORY_LIMIT_MB, "MB, 100,000 events in a loop"),
        result("sdk", worst.p50, P50_LIMIT_US, "µs per call, p50"),
        result("sdk", worst.p99, P99_LIMIT_US, "µs per call, p99"),
    ]
    settings = (
        f"`progress` calls: {LOADS['paced'][0]} with a pause of 1 ms each, and {LOADS['burst'][0]} without; the median of "
        f"{ROUNDS} rounds by p99; limits: p50 50 µs, p99 1 ms, 50 MB. "
        "`dumps`: `json.dumps` of the same two numbers at the same pace: what a rare call costs here. "
        "`said` is the job's stderr, where lost events would be named. "
        "Not measured: TLS, other platforms, several threads."
    )
    finish(results, settings, "\n".join(table))


def measure(sidecar: str, calls: int, pause: float) -> Figures:
    with tempfile.TemporaryDirectory(prefix="fabmon-bench-") as directory, SIDECARS[sidecar](Path(directory)) as url:
        environment = {**os.environ, "FABMON_URL": url, "FABMON_DATA_DIR": f"{directory}/job"}
        command = [sys.executable, "-c", PROGRAM, str(calls), str(pause)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    figures = msgspec.json.decode(done.stdout, type=Figures)
    figures.said = done.stderr.decode().strip()
    return figures


@contextmanager
def healthy(directory: Path) -> Iterator[str]:
    place = directory / "sidecar"
    place.mkdir()
    environment = {"FABMON_DATA_DIR": str(place), "FABMON_LOCAL_URL": f"http://127.0.0.1:{free_port()}"}
    service = Service("sidecar", environment, free_port(), place / "log").start("/livez")
    try:
        yield service.url
    finally:
        service.stop()


@contextmanager
def dead(directory: Path) -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def silent(directory: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


SIDECARS = {"healthy": healthy, "dead": dead, "silent": silent}

if __name__ == "__main__":
    main()
