"""What a backlog costs: the start, the memory, a lonely event, and neighbours of what does not fit."""

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fabmon.errors import SpoolFull
from fabmon.spool.disk import Disk
from fabmon.spool.frame import write_line
from fabmon.spool.limits import SEGMENT_BYTES
from fabmon.spool.segment import path_of, write_header
from fabmon.spool.spool import open_spool
from tests.fixtures.timing import in_time
from tests.unit.test_spool import LIMIT, contents, raws

OPEN = """
import asyncio, sys, time
from pathlib import Path
from fabmon.spool.spool import open_spool

def memory():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024

async def main(directory):
    before, begun = memory(), time.monotonic()
    async with open_spool(directory, 10**12) as spool:
        took = time.monotonic() - begun
        print(spool.pending, took, memory() - before)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the memory")
def test_a_backlog_of_5_gb_costs_less_than_a_second_and_20_mb_at_the_start(tmp_path: Path) -> None:
    segments = 5 * 10**9 // SEGMENT_BYTES
    per_segment = 20_000
    for number in range(segments):
        first = 1 + number * per_segment
        path = path_of(tmp_path, first)
        path.write_bytes(write_header(first, time.time()) + write_line(first, b"{}"))
        with path.open("r+b") as file:
            file.truncate(
                SEGMENT_BYTES
            )  # the rest is a hole: it takes no place on this disk, and nobody may look at it
    newest = 1 + segments * per_segment
    lines = [write_line(newest + place, b'{"pad":"%b"}' % (b"x" * 400)) for place in range(per_segment)]
    path_of(tmp_path, newest).write_bytes(write_header(newest, time.time()) + b"".join(lines))

    def start() -> float:
        command = [sys.executable, "-c", OPEN, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        pending, took, megabytes = done.stdout.split()
        assert int(pending) == (segments + 1) * per_segment
        assert int(megabytes) <= 20
        return float(took)

    in_time(1.0, start)


async def test_a_lonely_event_is_durable_within_50_ms(tmp_path: Path) -> None:
    took: list[float] = []
    async with open_spool(tmp_path, LIMIT) as spool:
        while len(took) < 21 or (
            statistics.median(took[-21:]) > 0.05 and len(took) < 300
        ):  # the disk is not ours alone
            begun = time.monotonic()
            await spool.append(raws(1, len(took)))
            took.append(time.monotonic() - begun)
            await asyncio.sleep(0.005)
    assert statistics.median(took[-21:]) <= 0.05


class Slow(Disk):
    """A disk on which requests come to wait together."""

    def fsync(self, descriptor: int) -> None:
        time.sleep(0.1)
        super().fsync(descriptor)


async def test_a_batch_that_does_not_fit_refuses_none_that_wait_beside_it(tmp_path: Path) -> None:
    async with open_spool(tmp_path, 10_000, Slow()) as spool:
        first = asyncio.ensure_future(spool.append([b"[%b]" % (b"1" * 7000)]))
        await asyncio.sleep(0.05)
        asked = [spool.append(raws(1, 1)), spool.append([b"[%b]" % (b"2" * 5000)]), spool.append(raws(1, 2))]
        results = await asyncio.gather(first, *asked, return_exceptions=True)
        assert [type(each) for each in results] == [type(None), type(None), SpoolFull, type(None)]
        assert (await contents(spool))[1:] == raws(2, 1)
