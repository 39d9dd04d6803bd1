"""memory: the resident memory of `local` under load, ten minutes long (or as many seconds as the argument says).

The load changes every few seconds between batches of 1,000 over 4 connections and single events over 64; one reader
follows the stream. Limits: 150 MB at any moment (`memory`, a ratio of at most 1), and in the last minute what it was in
the first (`memory_flat`, at most 1.1).
"""

import contextlib
import itertools
import re
import socket
import sys
import threading
import time
from pathlib import Path

import uvloop

from benchmarks.bench import database, finish, median, result, role
from benchmarks.data import batches, events
from benchmarks.load import post_all
from fabmon.wire.codec import encode

SECONDS = 600.0
LIMIT_MB = 150.0


def main(seconds: float) -> None:
    sent = 0
    samples: list[tuple[float, float]] = []
    stopped = threading.Event()
    with database() as url, role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local:
        assert local.process is not None
        watcher = threading.Thread(target=watch, args=(local.process.pid, samples, stopped))
        reader = threading.Thread(target=follow, args=(local.port, stopped))
        watcher.start()
        reader.start()
        begun = time.monotonic()
        for seed in itertools.count():
            bodies = batches(20, 1000, seed=2 * seed)
            assert uvloop.run(post_all(local.port, "/v1/ingest/events:batch", bodies, 4)).failures == 0
            singles = [encode(event) for event in events(4000, seed=2 * seed + 1)]
            assert uvloop.run(post_all(local.port, "/v1/ingest/events", singles, 64)).failures == 0
            sent += 24_000
            if time.monotonic() - begun > seconds:
                break
        stopped.set()
        reader.join()
        watcher.join()
    minute = max(5.0, seconds / 10)
    end = samples[-1][0]
    first = median([megabytes for at, megabytes in samples if at - samples[0][0] < minute])
    last = median([megabytes for at, megabytes in samples if end - at < minute])
    most = max(megabytes for _, megabytes in samples)
    table = f"{sent:,} events; the first tenth {first:.1f} MB, the last {last:.1f} MB, at most {most:.1f} MB"
    settings = f"{seconds:.0f} s of load, with one reader of the stream; resident memory every half second."
    finish([result("memory", most, LIMIT_MB, "MB"), result("memory_flat", last, first, "MB")], settings, table)


def follow(port: int, stopped: threading.Event) -> None:
    """A reader of the stream that keeps up, and comes back when it was cut off."""
    while not stopped.is_set():
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"GET /v1/stream HTTP/1.1\r\nhost: x\r\n\r\n")
            connection.settimeout(1.0)
            while not stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1 << 20):
                        break


def watch(pid: int, samples: list[tuple[float, float]], stopped: threading.Event) -> None:
    while not stopped.wait(0.5):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        samples.append((time.monotonic(), int(found[1]) * 1024 / 1e6))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
