"""spool: durable appends of one event from 64 requests at a time, against one loop that writes the same bytes.

The loop's groups are as large as the spool's were in the round before, each with one fsync; its lines are made beforehand.
The table has the same loop with the spool's way of writing too: over what was blank, with fdatasync.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.bench import finish, median, result
from benchmarks.data import events
from fabmon.durable import fsync_bytes
from fabmon.metrics import SPOOL_FSYNC_SECONDS
from fabmon.spool.frame import write_line
from fabmon.spool.segment import MOST_BLANK_BYTES
from fabmon.spool.spool import Spool, open_spool
from fabmon.wire.codec import encode

REQUESTS = 64
EVENTS = 64_000
ROUNDS = 11


def main() -> None:
    raws = [encode(event) for event in events(EVENTS, seed=1)]
    lines = [write_line(place + 1, raw) for place, raw in enumerate(raws)]
    ours, limit, ahead, groups = [], [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="fabmon-bench-") as directory:
            seconds, fsyncs = uvloop.run(append_all(Path(directory) / "spool", raws))
            ours.append(EVENTS / seconds)
            groups.append(EVENTS / fsyncs)
            limit.append(EVENTS / write_all(Path(directory) / "plain", lines, round(groups[-1])))
            ahead.append(EVENTS / write_over(Path(directory) / "blank", lines, round(groups[-1])))
    table = "\n".join(
        f"{name:16}{median(rates[1:]):10,.0f} events/s   {' '.join(f'{rate:,.0f}' for rate in rates[1:])}"
        for name, rates in {"spool": ours, "one loop": limit, "loop over blank": ahead}.items()
    )
    settings = (
        f"{ROUNDS - 1} interleaved rounds of {EVENTS:,} events of {len(lines[0])} bytes or so after one to warm up; "
        f"{median(groups):.1f} events an fsync on both sides."
    )
    finish([result("spool", median(ours[1:]), median(limit[1:]), "events/s")], settings, table)


async def append_all(directory: Path, raws: list[bytes]) -> tuple[float, float]:
    """Seconds for all, and how many fsyncs that took."""
    waiting = iter(raws)

    async def request(spool: Spool) -> None:
        for raw in waiting:
            await spool.append([raw])

    async with open_spool(directory, 10**10) as spool:
        fsyncs, begun = _fsyncs(), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(REQUESTS):
                tasks.create_task(request(spool))
        return time.perf_counter() - begun, _fsyncs() - fsyncs


def write_all(path: Path, lines: list[bytes], group: int) -> float:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begun = time.perf_counter()
    for start in range(0, len(lines), group):
        os.write(descriptor, b"".join(lines[start : start + group]))
        os.fsync(descriptor)
    seconds = time.perf_counter() - begun
    os.close(descriptor)
    return seconds


def write_over(path: Path, lines: list[bytes], group: int) -> float:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    blank = memoryview(b" " * MOST_BLANK_BYTES)
    begun, end, size = time.perf_counter(), 0, 0
    for start in range(0, len(lines), group):
        block = b"".join(lines[start : start + group])
        os.pwrite(descriptor, block, end)
        end += len(block)
        if end > size:
            size = end + os.pwrite(descriptor, blank, end)
        fsync_bytes(descriptor)
    seconds = time.perf_counter() - begun
    os.close(descriptor)
    return seconds


def _fsyncs() -> float:
    return next(
        sample.value
        for metric in SPOOL_FSYNC_SECONDS.collect()
        for sample in metric.samples
        if sample.name.endswith("_count")
    )


if __name__ == "__main__":
    main()
