"""A load generator that costs little beside what it measures: requests encoded beforehand, bare protocols, keep-alive."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import cast

import msgspec


class Load(msgspec.Struct):
    """What was measured: seconds for all, the seconds of each request, and how many were not answered 200."""

    seconds: float
    latencies: list[float]
    failures: int


async def post_all(port: int, path: str, bodies: Sequence[bytes], connections: int) -> Load:
    """Send every body once over *connections* connections, each waiting for its answer."""
    requests = iter([_request(path, body) for body in bodies])
    load = Load(0.0, [], 0)
    done = asyncio.Event()
    waiting = 0

    def send_next(connection: _Connection) -> None:
        nonlocal waiting
        request = next(requests, None) if connection.is_open else None
        if request is not None:
            connection.send(request)
            return
        connection.close()
        waiting -= 1
        if not waiting:
            done.set()

    opened = [await _connect(port, load, send_next) for _ in range(connections)]
    waiting = len(opened)
    begun = time.perf_counter()
    for each in opened:
        send_next(each)
    await done.wait()
    load.seconds = time.perf_counter() - begun
    return load


async def post_paced(port: int, path: str, bodies: Sequence[bytes], per_second: float, connections: int = 16) -> Load:
    """Send every body at its time, whether or not those before it were answered; fails when one isn't answered 200."""
    load = Load(0.0, [], 0)
    free: asyncio.Queue[_Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await _connect(port, load, free.put_nowait))
    begun = time.perf_counter()
    for number, body in enumerate(bodies):
        await asyncio.sleep(max(0.0, begun + number / per_second - time.perf_counter()))
        (await free.get()).send(_request(path, body))
    for _ in range(connections):
        (await free.get()).close()
    load.seconds = time.perf_counter() - begun
    assert load.failures == 0
    return load


class _Connection(asyncio.Protocol):
    """Sends one request at a time; *answered* is called behind each answer."""

    def __init__(self, load: Load, answered: Callable[["_Connection"], None]) -> None:
        self._load = load
        self._answered = answered
        self._answer = b""
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self._begun = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0"):
            return
        self._load.latencies.append(time.perf_counter() - self._begun)
        self._load.failures += not head.startswith(b"HTTP/1.1 200")
        self._answer = b""
        self._answered(self)

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_open:
            self._load.failures += 1
            self.is_open = False
            self._answered(self)


async def _connect(port: int, load: Load, answered: Callable[[_Connection], None]) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(load, answered), "127.0.0.1", port)
    return connection


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
