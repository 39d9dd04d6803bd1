"""backlog: the start of a sidecar, and its memory, with 5 GB of events in its spool (python -m benchmarks.bench_backlog 5).

The spool's part is what `open_spool` takes; the whole start, from exec to the first answer, is shown with and without the
backlog, since most of it is Python and its imports. Memory is that of the process, its site away, and while it drains.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop
from tests.fixtures.roles import Service, eventually, free_port

from benchmarks.bench import Result, finish, median, result
from benchmarks.data import events
from benchmarks.sidecar import program
from fabmon.spool.books import Books, BooksFile
from fabmon.spool.disk import Disk
from fabmon.spool.frame import write_line
from fabmon.spool.limits import SEGMENT_BYTES
from fabmon.spool.segment import path_of, write_header
from fabmon.spool.spool import open_spool
from fabmon.wire.codec import encode

ROUNDS = 3
DRAINED = 100_000
LIMITS = {"FABMON_SPOOL_MAX_BYTES": str(10**12), "FABMON_SITE_ID": "fab1"}


def main(gigabytes: float) -> None:
    with tempfile.TemporaryDirectory(prefix="fabmon-bench-") as directory:
        place = Path(directory)
        full = place / "full"
        count = fill(full, int(gigabytes * 1e9))
        (place / "empty").mkdir()
        opening = median([uvloop.run(seconds_to_open(full)) for _ in range(ROUNDS)])
        starts = {name: [start(place / name) for _ in range(ROUNDS)] for name in ("empty", "full")}
        (bare_s, bare_mb), (full_s, full_mb) = (
            (median([each[0] for each in starts[name]]), median([each[1] for each in starts[name]]))
            for name in ("empty", "full")
        )
        drained_mb = memory_while_draining(full, count)
    table = "\n".join(
        (
            f"opening the spool      {opening:6.3f} s, {count:,} events, {gigabytes:g} GB",
            f"exec to first answer   {full_s:6.3f} s with the backlog, {bare_s:.3f} s without",
            f"memory, site away      {full_mb:6.1f} MB with the backlog, {bare_mb:.1f} MB without",
            f"memory, draining       {drained_mb:6.1f} MB after {DRAINED:,} events or more",
        )
    )
    results: Sequence[Result] = (
        result("sidecar_memory_idle", bare_mb, 60.0, "MB"),
        result("sidecar_memory_backlog", max(0.1, full_mb - bare_mb), 20.0, "MB more than idle"),
        result("sidecar_memory_draining", max(0.1, drained_mb - bare_mb), 20.0, "MB more than idle"),
        result("backlog", opening + max(0.0, full_s - bare_s - opening), 1.0, "s of our own work at the start"),
    )
    finish(
        results,
        f"The median of {ROUNDS} starts; the files were written before and lie in the page cache.",
        table,
        "backlog",
    )


def fill(directory: Path, size: int) -> int:
    """A spool of *size* bytes, as the spool itself writes it; returns how many events it holds."""
    directory.mkdir()
    raws = [encode(event) for event in events(20_000, seed=1)]
    seq, written = 1, 0
    while written < size:
        parts, first, length = [write_header(seq, time.time())], seq, 0
        while length < SEGMENT_BYTES:
            parts.append(write_line(seq, raws[seq % len(raws)]))
            length += len(parts[-1])
            seq += 1
        path_of(directory, first).write_bytes(b"".join(parts))
        written += length
    file = BooksFile(Disk(), directory)
    file.save(Books(last=seq - 1))
    file.close()
    return seq - 1


async def seconds_to_open(directory: Path) -> float:
    begun = time.perf_counter()
    async with open_spool(directory, 10**12) as spool:
        assert spool.pending
        return time.perf_counter() - begun


def start(directory: Path) -> tuple[float, float]:
    """Seconds from exec to the first answer, and MB a moment later."""
    begun = time.perf_counter()
    with sidecar(directory, "http://127.0.0.1:9") as (service, process):
        seconds = time.perf_counter() - begun
        time.sleep(2.0)
        assert service.get("/v1/healthz").status == 200
        return seconds, memory(process.pid)


def memory_while_draining(directory: Path, count: int) -> float:
    with (
        program("benchmarks.stub_site") as site,
        sidecar(directory, f"http://127.0.0.1:{site.port}") as (service, process),
    ):
        eventually(lambda: service.get("/v1/healthz").json["spool_count"] <= count - DRAINED, 60)
        return memory(process.pid)


@contextmanager
def sidecar(spool: Path, site: str) -> Iterator[tuple[Service, "subprocess.Popen[bytes]"]]:
    environment = {
        "FABMON_DATA_DIR": str(spool.parent),
        "FABMON_SPOOL_DIR": str(spool),
        "FABMON_LOCAL_URL": site,
        **LIMITS,
    }
    service = Service("sidecar", environment, free_port(), spool.parent / "log").start("/livez")
    assert service.process
    try:
        yield service, service.process
    finally:
        service.stop()


def memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
