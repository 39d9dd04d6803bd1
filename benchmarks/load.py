"""A load generator that costs little beside what it measures: requests encoded beforehand, plain sockets, keep-alive."""

import asyncio
import time
from collections.abc import Sequence

import msgspec


class Load(msgspec.Struct):
    """What was measured: seconds for all, the seconds of each request, and how many were not answered 200."""

    seconds: float
    latencies: list[float]
    failures: int


async def post_all(port: int, path: str, bodies: Sequence[bytes], connections: int) -> Load:
    """Send every body once over *connections* connections, each waiting for its answer."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
    requests = [b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body) for body in bodies]
    load = Load(0.0, [], 0)
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for place, (reader, writer) in enumerate(opened):
            tasks.create_task(_send(reader, writer, requests[place::connections], load))
    load.seconds = time.perf_counter() - begun
    for _, writer in opened:
        writer.close()
    return load


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Sequence[bytes], load: Load
) -> None:
    for request in requests:
        begun = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or b"0"))
        load.latencies.append(time.perf_counter() - begun)
        load.failures += not head.startswith(b"HTTP/1.1 200")


async def post_paced(port: int, path: str, bodies: Sequence[bytes], per_second: float, connections: int = 16) -> None:
    """Send every body at its time, whether or not those before it were answered; fails when one isn't answered 200."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "

    async def send(body: bytes) -> None:
        reader, writer = await free.get()
        load = Load(0.0, [], 0)
        await _send(reader, writer, [b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body)], load)
        assert load.failures == 0
        free.put_nowait((reader, writer))

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, body in enumerate(bodies):
            await asyncio.sleep(max(0.0, begun + number / per_second - time.perf_counter()))
            tasks.create_task(send(body))
    while not free.empty():
        free.get_nowait()[1].close()
