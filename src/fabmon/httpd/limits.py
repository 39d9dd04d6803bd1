"""What one connection may cost, where uvicorn sets no limit: the head's size, the time to send a request, the time to read
an answer, and the number of connections.

One sweep over all connections twice a second stands for a timer in each: a request costs two stores.
"""

import asyncio
import http
from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fabmon.metrics import CLOSED_CONNECTIONS
from fabmon.wire.codec import encode
from fabmon.wire.problem import CONTENT_TYPE, Problem

SWEEP_EVERY_TICKS: Final = 5  # of uvicorn's ten a second


class Limits(msgspec.Struct, frozen=True):
    head_bytes: int
    request_seconds: float
    connections: int


def limited(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol within *limits*."""
    return type("Limited", (_Limited,), {"limits": limits})


def sweep(connections: Iterable[Any]) -> None:
    """Close those that have taken too long."""
    for connection in list(connections):
        if isinstance(connection, _Limited):
            connection.close_if_late()


class _Limited(HttpToolsProtocol):
    limits: ClassVar[Limits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        # When the request that is being received began; None between requests.
        self._begun: float | None = self.loop.time()
        self._stuck: float | None = None
        self._head_bytes = 0
        self._in_head = True
        self._refusal: tuple[int, str, str] | None = None
        self._is_excess = len(self.connections) > self.limits.connections
        if len(self.connections) > self.limits.connections + self.limits.connections // 8 + 8:
            # Those in between get an answer once they have sent something; here is the hard end.
            CLOSED_CONNECTIONS.labels("too_many").inc()
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._begun is None:
            self._begun = self.loop.time()
        if self._is_excess:
            self._refuse(503, "overloaded", "too many connections", "too_many")
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.limits.head_bytes and not self.transport.is_closing():
            self._refuse(431, "head_too_large", self._head_limit(), "head_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = self.loop.time()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.limits.head_bytes:
            self._refusal = (431, "head_too_large", self._head_limit())
            raise ValueError(self._head_limit())
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._begun = None

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed; the parser's caller knows no other answer, so ours stand in its place."""
        status, code, detail = self._refusal or (400, "http_error", msg)
        self._refuse(status, code, detail, code)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck = None

    def close_if_late(self) -> None:
        at, most = self.loop.time(), self.limits.request_seconds
        if self._stuck is not None and at - self._stuck > most:
            CLOSED_CONNECTIONS.labels("not_reading").inc()
            self.transport.abort()
        elif self._begun is not None and self.flow.read_paused:
            self._begun = at  # it is we who do not read
        elif self._begun is not None and at - self._begun > most:
            self._refuse(408, "request_too_slow", f"a request must arrive within {most:g} s", "too_slow")

    def _refuse(self, status: int, code: str, detail: str, reason: str) -> None:
        """Answer, where no answer has begun, and close."""
        CLOSED_CONNECTIONS.labels(reason).inc()
        self._begun = None
        # Nobody who merely holds a connection open is waiting for words.
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not answering and not self.transport.is_closing():
            title = http.HTTPStatus(status).phrase
            body = encode(Problem("/problems/" + code.replace("_", "-"), title, status, detail, "", code))
            retry = b"retry-after: 1\r\n" if status == 503 else b""
            head = b"content-type: %b\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % (CONTENT_TYPE.encode(), len(body), retry) + body)
        self.transport.close()

    def _head_limit(self) -> str:
        return f"the request line and headers hold at most {self.limits.head_bytes} bytes"
