"""stream: 200 readers of /v1/stream while 250 events/s are committed, one to a request, by another `local` of the site.

All readers must get all events. Time: from the beginning of an event's transaction to the reader's socket, a little more
than from its commit. CPU: of the `local` that streams, all of it, per delivered event, against a bare loop (uvloop too)
that writes the same bytes to as many sockets: event by event (the limit), and in the very pieces in which ours did.
Rounds are interleaved; the first warms up and is left out.
"""

import asyncio
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
import uvloop

from benchmarks.bench import database, finish, median, percentile, result, role
from benchmarks.data import events
from benchmarks.load import post_paced
from fabmon.wire.codec import encode

READERS = 200
PER_SECOND = 250
SECONDS = 8
ROUNDS = 4
P99_LIMIT_MS = 250.0
_EVENT_END = b"}\n\n"
_KEY = re.compile(rb'"idempotency_key":"([0-9a-f-]{36})"')
_STORED = re.compile(rb'"stored_at":"([^"]+)"')

BARE = """
import asyncio, pickle, sys, time, uvloop
async def main(path, readers):
    pieces = pickle.load(open(path, "rb"))
    opened, loop = [], asyncio.get_running_loop()
    class Reader(asyncio.Protocol):
        def connection_made(self, transport): opened.append(transport)
    server = await loop.create_server(Reader, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    assert len(opened) == readers
    begun, cpu = time.perf_counter(), time.process_time()
    for at, piece in pieces:
        if (wait := begun + at - time.perf_counter()) > 0: await asyncio.sleep(wait)
        for transport in opened: transport.write(piece)
    await asyncio.sleep(0.1)
    print(time.process_time() - cpu, flush=True)
uvloop.run(main(sys.argv[1], int(sys.argv[2])))
"""


class Round(msgspec.Struct):
    latencies: list[float]
    ours: float
    bare: float
    bare_same: float
    pieces: float


class Reader(asyncio.Protocol):
    """Keeps what comes, with the time."""

    def __init__(self) -> None:
        self.parts: list[tuple[float, bytes]] = []
        self.ends = 0
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        self.parts.append((time.time(), data))
        self.ends += (self._tail + data).count(_EVENT_END)
        self._tail = data[-2:]


def main() -> None:
    with (
        database() as url,
        role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as writer,
        role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local,
    ):
        rounds = [uvloop.run(measure(writer.port, local.port, local.pid, seed)) for seed in range(ROUNDS)][1:]
    latencies = [each for one in rounds for each in one.latencies]
    p99 = percentile(latencies, 0.99) * 1e3
    ours, bare, same = (median([getattr(one, name) for one in rounds]) for name in ("ours", "bare", "bare_same"))
    pieces = median([one.pieces for one in rounds])
    table = (
        f"all {READERS} readers got all {PER_SECOND * SECONDS} events of each round, in the same order\n"
        f"commit to reader p50 {median(latencies) * 1e3:.1f} ms, p99 {p99:.1f} ms, most {max(latencies) * 1e3:.1f} ms\n"
        f"CPU per delivered event: local {ours:.2f} µs ({_each(rounds, 'ours')})\n"
        f"  bare loop, event by event {bare:.2f} µs ({_each(rounds, 'bare')})\n"
        f"  bare loop, in the same {pieces:.0f} pieces a second {same:.2f} µs ({_each(rounds, 'bare_same')})"
    )
    settings = (
        f"{READERS} readers, {PER_SECOND} events/s, {ROUNDS - 1} rounds of {SECONDS} s after one to warm up; the events "
        "are taken by a second `local`, so the CPU is that of reading the feed and of the stream; readers and writer are "
        "one process."
    )
    finish(
        [
            result("stream", p99, P99_LIMIT_MS, "ms p99 from commit to reader"),
            result("stream_cpu_in_the_same_pieces", ours, same, "µs of CPU per delivered event"),
            result("stream_cpu", ours, bare, "µs of CPU per delivered event"),
        ],
        settings,
        table,
    )


async def measure(writer: int, port: int, pid: int, seed: int) -> Round:
    made = events(PER_SECOND * SECONDS, 1000 + seed)
    readers = await _connect(port, b"GET /v1/stream HTTP/1.1\r\nhost: x\r\n\r\n")
    await _until(lambda: all(reader.parts for _, reader in readers))
    await asyncio.sleep(0.5)
    before = _cpu(pid)
    await post_paced(writer, "/v1/ingest/events", [encode(event) for event in made], PER_SECOND)
    await _until(lambda: all(reader.ends >= len(made) for _, reader in readers))
    used = _cpu(pid) - before
    for transport, _ in readers:
        transport.close()
    wanted = {str(event.idempotency_key).encode() for event in made}
    streams = [b"".join(data for _, data in reader.parts) for _, reader in readers]
    order = _KEY.findall(streams[0])
    assert set(order) == wanted
    assert len(order) == len(wanted)
    assert all(_KEY.findall(stream) == order for stream in streams)
    stored = [datetime.fromisoformat(at.decode()).timestamp() for at in _STORED.findall(streams[0])]
    latencies = [late for _, reader in readers for late in _latencies(reader, stored)]
    pieces = _pieces(readers[0][1])
    alone = [(n / PER_SECOND, event) for n, event in enumerate(_blocks(b"".join(data for _, data in pieces)))]
    delivered = len(made) * READERS
    return Round(
        latencies,
        used / delivered * 1e6,
        await _bare(alone, len(made)) / delivered * 1e6,
        await _bare(pieces, len(made)) / delivered * 1e6,
        len(pieces) / SECONDS,
    )


async def _connect(port: int, request: bytes) -> list[tuple[asyncio.Transport, Reader]]:
    loop = asyncio.get_running_loop()
    found = [await loop.create_connection(Reader, "127.0.0.1", port) for _ in range(READERS)]
    for transport, _ in found:
        if request:
            transport.write(request)
    return found


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what it waits for is told by no event
            await asyncio.sleep(0.05)


def _latencies(reader: Reader, stored: list[float]) -> list[float]:
    """For each event how long after its transaction began its end arrived."""
    found: list[float] = []
    tail = b""
    for at, data in reader.parts:
        for _ in range((tail + data).count(_EVENT_END)):
            found.append(at - stored[len(found)])
        tail = data[-2:]
    return found


def _pieces(reader: Reader) -> list[tuple[float, bytes]]:
    """What one reader got, piece by piece, with the seconds since the first; without the frames of HTTP."""
    parts = reader.parts[next(n for n, (_, data) in enumerate(reader.parts) if _EVENT_END in data) :]
    begin = parts[0][0]
    return [(at - begin, re.sub(rb"(?m)^[0-9a-f]+\r\n|\r\n", b"", data)) for at, data in parts]


def _blocks(stream: bytes) -> list[bytes]:
    return [block + b"\n\n" for block in stream.split(b"\n\n") if b"\ndata: " in block]


async def _bare(pieces: list[tuple[float, bytes]], count: int) -> float:
    """The CPU seconds of a bare loop that writes *pieces* to as many readers."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pieces"
        path.write_bytes(pickle.dumps(pieces))
        command = [sys.executable, "-c", BARE, str(path), str(READERS)]
        process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs meanwhile
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        readers = await _connect(int(process.stdout.readline()), b"")
        await asyncio.sleep(0.5)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        await _until(lambda: all(reader.ends >= count for _, reader in readers))
        used = float(await asyncio.to_thread(process.stdout.readline))
        process.wait(10)
        return used


def _cpu(pid: int) -> float:
    """CPU seconds of all threads of a process so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _each(rounds: list[Round], name: str) -> str:
    return " ".join(f"{getattr(one, name):.2f}" for one in rounds)


if __name__ == "__main__":
    main()
