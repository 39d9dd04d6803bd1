"""Another fabmon over HTTP: connections with keep-alive, a deadline on every call.

What it answers is sorted into three: done, "not now" (PeerUnavailable: try again) and "no" (PeerRefused: the request as a
whole is refused, and no repetition of it would do better).
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec

from fabmon import spans
from fabmon.errors import PeerRefused, PeerUnavailable
from fabmon.logs import REQUEST_LINES
from fabmon.peer.backoff import asked_to_wait
from fabmon.peer.body import Array, packed
from fabmon.peer.credentials import Credentials
from fabmon.peer.receipt import RECEIPTS, read_receipt
from fabmon.peer.tls import handshake_failure
from fabmon.trace import Carried, current, joined
from fabmon.version import __version__
from fabmon.wire.contact import CLOCK_HEADER, read_clock
from fabmon.wire.event import Rejection

# 10,000 jobs with all they carry; an endless answer must end somewhere.
_ANSWER_LIMIT_BYTES: Final = 64 * 1024 * 1024
# Of a refusal; what is longer says no more.
_REFUSAL_LIMIT_BYTES: Final = 64 * 1024
# The longest that a stream may say nothing: a live one sends a comment every 15 s.
SILENCE_SECONDS: Final = 30.0
# aiohttp rounds what is longer up to a whole second of its clock; a deadline is one.
_ROUNDED_FROM_SECONDS: Final = 1e9
_TRY_AGAIN: Final = frozenset({408, 425, 429})  # and all from 500 on
_MOST_IDS_SAID: Final = 200


class Sent(msgspec.Struct, frozen=True):
    """What a peer says of a batch; `rejected` holds places in it."""

    rejected: Sequence[Rejection] = ()
    status: int | None = None
    clock: float | None = None  # the peer's, when it answered


class Answer(msgspec.Struct, frozen=True):
    status: int
    content_type: str
    body: bytes
    asked_to_wait_seconds: float = 0.0
    clock: float | None = None


@asynccontextmanager
async def open_peer(
    url: str,
    credentials: Credentials | None = None,
    deadline_seconds: float | None = None,
    connections: int = 16,
    *,
    packs: bool = False,
) -> AsyncIterator["Peer"]:
    """A peer at *url*; nothing is sent before the first call.

    *deadline_seconds* bounds every question to it, whatever the question itself allows; *packs*: batches go as gzip.
    """
    # Uncompressed: nothing here unpacks, and central passes bytes on as they come.
    headers = {"user-agent": f"fabmon/{__version__}", "accept-encoding": "identity"}
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=30)
    # auto_decompress off: a small answer that unpacks to gigabytes is refused instead of read.
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False) as session,
        # Answers without an end are as many as their readers, and must not take the connections of the others.
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers=headers, auto_decompress=False
        ) as streams,
    ):
        yield Peer(url.rstrip("/"), session, streams, credentials or Credentials(), deadline_seconds, packs=packs)


class Peer:
    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        streams: aiohttp.ClientSession,
        credentials: Credentials,
        deadline_seconds: float | None = None,
        *,
        packs: bool = False,
    ) -> None:
        self.url = url
        self._packs = packs
        self._session = session
        self._streams = streams
        self._credentials = credentials
        self._deadline_seconds = deadline_seconds

    async def send_batch(
        self,
        raws: Sequence[bytes],
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        requests: Sequence[Carried] = (),
    ) -> Sent:
        """Send events, those of *requests*; when this returns, all but the rejected are durable at the peer.

        Raises PeerUnavailable (any of them may have arrived) or PeerRefused (none has).
        """
        body: bytes | Array = Array(events := b",".join(raws))
        if self._packs and (short := await packed(events)) is not None:
            body, headers = short, {**(headers or {}), "content-encoding": "gzip"}
        path = "/v1/ingest/events:batch"
        answer = await self._ask("POST", path, timeout_seconds, body, headers=headers, requests=requests)
        if answer.status in RECEIPTS and (rejected := read_receipt(answer.status, answer.body, len(raws))) is not None:
            return Sent(rejected, answer.status, answer.clock)
        said = f"{self.url} answered {answer.status}" + (" without a receipt" if answer.status in RECEIPTS else "")
        if answer.status in _TRY_AGAIN or answer.status < 400 or answer.status >= 500:
            raise PeerUnavailable(said, answer.status, answer.asked_to_wait_seconds)
        raise PeerRefused(said, answer.status)

    async def get(self, path: str, query: Sequence[tuple[str, str]], timeout_seconds: float) -> Answer:
        """The peer's answer to a question, whatever its status; raises PeerUnavailable when there is none."""
        return await self._ask("GET", path, self._at_most(timeout_seconds), query=query)

    async def post(self, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]) -> Answer:
        """The peer's answer, whatever its status; raises PeerUnavailable when there is none."""
        return await self._ask("POST", path, timeout_seconds, body, headers=headers)

    async def stream(
        self, path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str], head_timeout_seconds: float
    ) -> tuple[int, str, AsyncGenerator[bytes]]:
        """Status, content type and the parts of an answer without a bound, as they come; of a refusal its first 64 KiB.

        The deadline holds for the head and the first part, or the refusal; then each part may take 30 s. Raises
        PeerUnavailable, also between parts.
        """
        head_timeout_seconds = self._at_most(head_timeout_seconds)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=head_timeout_seconds, sock_read=SILENCE_SECONDS)
        carried = joined([request] if (request := current.get()) else [])
        mine, tls = self._credentials.current()
        opening = self._streams.get(
            self.url + path,
            params=list(query),
            headers={**mine, **headers, **carried.headers()},
            timeout=timeout,
            ssl=tls,
            allow_redirects=False,
        )
        try:
            async with asyncio.timeout(head_timeout_seconds):
                response = await opening
                parts = self._parts(response)
                await anext(parts)
        except TimeoutError as error:
            raise PeerUnavailable(f"{self.url} gave no answer within {head_timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PeerUnavailable(f"{self.url}: {self._why(error)}") from error
        return response.status, response.headers.get("content-type", ""), parts

    def _at_most(self, seconds: float) -> float:
        return seconds if self._deadline_seconds is None else min(seconds, self._deadline_seconds)

    async def _parts(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """Nothing, when the first part or the refusal has come: one that has begun can be closed. Then the parts."""
        is_refusal = response.status != 200
        try:
            first = await (_refusal(response) if is_refusal else response.content.readany())
            yield b""
            yield first
            if not is_refusal:
                async for part in response.content.iter_any():
                    yield part
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise PeerUnavailable(f"{self.url} broke off: {type(error).__name__}: {error}") from error
        finally:
            response.close()

    async def _ask(
        self,
        method: str,
        path: str,
        timeout_seconds: float,
        body: bytes | Array | None = None,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        requests: Sequence[Carried] = (),
    ) -> Answer:
        parents = requests or [request for request in [current.get()] if request]
        carried = joined(parents)
        if len(parents) > 1 and REQUEST_LINES.on:
            ids = ",".join(request.request_id for request in parents[:_MOST_IDS_SAID])
            REQUEST_LINES.joined(carried.request_id, len(parents), ids)
        if not spans.on():
            return await self._call(
                method, path, timeout_seconds, body, query, {**(headers or {}), **carried.headers()}
            )
        attributes = {"url.full": self.url + path, "fabmon.request_id": carried.request_id}
        span, traceparent = spans.begin(f"{method} {path}", "CLIENT", parents, attributes)
        carried = msgspec.structs.replace(carried, traceparent=traceparent)
        status = None
        try:
            answer = await self._call(
                method, path, timeout_seconds, body, query, {**(headers or {}), **carried.headers()}
            )
            status = answer.status
            return answer
        finally:
            spans.end(span, status)

    async def _call(
        self,
        method: str,
        path: str,
        timeout_seconds: float,
        body: bytes | Array | None,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
    ) -> Answer:
        kind: Mapping[str, str] = {"content-type": "application/json"} if body is not None else {}
        mine, tls = self._credentials.current()
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, ceil_threshold=_ROUNDED_FROM_SECONDS)
        try:
            async with self._session.request(
                method,
                self.url + path,
                data=body,
                params=list(query),
                headers={**mine, **kind, **headers},
                ssl=tls,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                content = await _read_bounded(response)
                said = response.headers
                kind_said, clock = said.get("content-type", ""), read_clock(said.get(CLOCK_HEADER))
                return Answer(response.status, kind_said, content, asked_to_wait(said), clock)
        except TimeoutError as error:
            raise PeerUnavailable(f"{self.url} gave no answer within {timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PeerUnavailable(f"{self.url}: {self._why(error)}") from error

    def _why(self, error: Exception) -> str:
        return (handshake_failure(error) if self.url.startswith("https") else "") or _plainly(error)


def _plainly(error: Exception) -> str:
    """For people: what the system said where it was not reached, without the library's words around it."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return f"{type(error).__name__}: {error}"
    said = error.os_error
    if (number := said.errno or 0) in errno.errorcode and not isinstance(said, socket.gaierror):
        return os.strerror(number)
    return said.strerror or str(said)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _ANSWER_LIMIT_BYTES:
            raise ValueError(f"the answer is longer than {_ANSWER_LIMIT_BYTES} bytes")
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.readexactly(_REFUSAL_LIMIT_BYTES)
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        response.close()
