"""A Local API for the benchmarks of the sidecar: takes every batch at once, counts its events, keeps nothing.

    python -m benchmarks.stub_site PORT [EVENTS_PER_SECOND]

With a rate it answers as a site does that is busy: one batch after the other, each after its events' time.
`GET /count` says how many events it has taken.
"""

import asyncio
import sys
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_RECEIPT = b'{"ok":true,"rejected":[]}'


class Taken:
    """What all connections share."""

    def __init__(self, events_per_second: float) -> None:
        self.events = 0
        self.events_per_second = events_per_second
        self.busy_until = 0.0

    def wait_seconds(self, events: int) -> float:
        """How long a batch of *events* that comes now waits for its answer."""
        if not self.events_per_second:
            return 0.0
        at = asyncio.get_running_loop().time()
        self.busy_until = max(at, self.busy_until) + events / self.events_per_second
        return self.busy_until - at


class StubSite(asyncio.Protocol):
    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._parts: list[bytes] = []
        self._size = self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if not self._wanted:
            head, end, _ = b"".join(self._parts).partition(b"\r\n\r\n")
            if not end:
                return
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._wanted = len(head) + 4 + int(length or b"0")
        if self._size >= self._wanted:
            request = b"".join(self._parts)
            self._parts, self._size, self._wanted = [], 0, 0
            self._take(request)

    def _take(self, request: bytes) -> None:
        if request.startswith(b"GET /count"):
            self._answer(b"%d" % self._taken.events)
            return
        events = request.count(b'"idempotency_key"')
        self._taken.events += events
        wait = self._taken.wait_seconds(events)
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._answer, _RECEIPT)
        else:
            self._answer(_RECEIPT)

    def _answer(self, body: bytes) -> None:
        self._transport.write(_ANSWER % (len(body), body))


async def serve(port: int, events_per_second: float) -> None:
    taken = Taken(events_per_second)
    server = await asyncio.get_running_loop().create_server(lambda: StubSite(taken), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
