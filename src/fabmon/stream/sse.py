"""GET /v1/stream: server-sent events, filtered here, resumed from Last-Event-ID without gap or repeat."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fabmon.clock import monotonic
from fabmon.errors import BadParameter, StoreUnavailable
from fabmon.store.changes import Position, read_changes, read_head, read_position
from fabmon.store.pool import Pool
from fabmon.stream.hub import Hub, Message, Reader, to_message
from fabmon.wire.event import STATUS_OF_KIND, STATUSES
from fabmon.wire.ids import read_uuid

HEARTBEAT_SECONDS: Final = 15.0
_PAGE: Final = 1000
_JOIN_SECONDS: Final = 3.0
_EXACT: Final = {
    "entity_type": frozenset({"job", "subjob"}),
    "kind": frozenset(STATUS_OF_KIND),
    "status": frozenset(STATUSES),
}
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]

Wanted = Callable[[dict[str, Any]], bool]


def stream_routes(pool: Pool, hub: Hub) -> list[Route]:
    return [Route("/v1/stream", _Stream(pool, hub), methods=["GET"])]


class _Stream:
    """Plain ASGI: the reader's place in the hub is given back at once when it goes, however it goes."""

    def __init__(self, pool: Pool, hub: Hub) -> None:
        self._pool = pool
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        pairs = request.query_params.multi_items()
        wanted = read_filters(pairs)
        resume = _resume_from(request, dict(pairs).get("last_event_id"))
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": b""})
            return
        with self._hub.reading() as reader:
            joined = await _join(reader)
            await self._refuse_what_is_ahead(resume, joined)
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump(reader, wanted, resume, joined, send), name="stream-pump")
                watch = tasks.create_task(_until_disconnect(receive, reader), name="stream-watch")
                await reader.ended.wait()
                pump.cancel()
                watch.cancel()

    async def _refuse_what_is_ahead(self, resume: Position | None, joined: Position) -> None:
        """An id of another database, or of one that was restored since: nothing could tell what was missed."""
        if resume is not None and resume > joined and resume.tx >= (await read_head(self._pool)).tx:
            raise BadParameter("last_event_id", f"{resume} lies ahead of this database: start without it")

    async def _pump(
        self, reader: Reader, wanted: Wanted, resume: Position | None, joined: Position, send: Send
    ) -> None:
        try:
            async for line in _lines(self._pool, reader, wanted, resume, joined):
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            reader.ended.set()


def read_filters(pairs: Sequence[tuple[str, str]]) -> Wanted:
    """What the query string asks for, as a test of one event; raises BadParameter for what it doesn't know."""
    tests = [_test(name, value) for name, value in pairs if name != "last_event_id"]
    return lambda event: all(test(event) for test in tests)


def _test(name: str, value: str) -> Wanted:
    if name in _EXACT:
        wanted = frozenset(value.split(","))
        if not wanted <= _EXACT[name]:
            raise BadParameter(name, f"a comma list of {', '.join(sorted(_EXACT[name]))}")
        return lambda event: event[name] in wanted
    if name == "site_id":
        sites = frozenset(value.split(","))
        return lambda event: event["site_id"] in sites
    if name == "app_name":
        part = value.lower()
        return lambda event: part in event["app_name"].lower()
    if name == "job_id":
        job = read_uuid(name, value)
        return lambda event: job in (event["entity_id"], event["parent_id"])
    raise BadParameter(name[:60], "unknown parameter")


def _resume_from(request: Request, parameter: str | None) -> Position | None:
    # An EventSource that reconnects by itself sends the header; the parameter is for the first connection.
    text = request.headers.get("last-event-id") or parameter
    if not text:
        return None
    position = read_position(text)
    if position is None:
        raise BadParameter("last_event_id", f"{text[:60]!r} is no id of this stream")
    return position


async def _join(reader: Reader) -> Position:
    """Where the reader joins the feed; before it is known, an answer would promise events that may be missed."""
    try:
        async with asyncio.timeout(_JOIN_SECONDS):
            return await reader.joined
    except TimeoutError:
        raise StoreUnavailable("the stream waits for the database") from None


async def _until_disconnect(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.ended.set()


async def _lines(
    pool: Pool, reader: Reader, wanted: Wanted, resume: Position | None, joined: Position
) -> AsyncIterator[bytes]:
    """What the reader gets. Its id moves on with what the filters leave out, so that a resume does not start over."""
    position = resume or joined
    yield b": fabmon\nid: %b\n\n" % str(position).encode()
    sent = monotonic()
    async for message in _from_store(pool, resume, joined):
        position = message.position
        if wanted(message.event):
            yield _event(message)
            sent = monotonic()
    async for live in _from_hub(reader):
        # What another process had shown before the feed here came to it is not shown again.
        if live is not None and live.position > position:
            position = live.position
            if wanted(live.event):
                yield _event(live)
                sent = monotonic()
        if monotonic() - sent >= HEARTBEAT_SECONDS:
            yield b": still here\nid: %b\n\n" % str(position).encode()
            sent = monotonic()


async def _from_store(pool: Pool, resume: Position | None, joined: Position) -> AsyncIterator[Message]:
    """What was stored behind *resume* up to where the reader joined the hub."""
    position = resume
    while position is not None and position < joined:
        changes = await read_changes(pool, position, _PAGE)
        for change in changes:
            if change.position > joined:
                return
            yield to_message(change)
        if len(changes) < _PAGE:
            return
        position = changes[-1].position


async def _from_hub(reader: Reader) -> AsyncIterator[Message | None]:
    """The live messages, and None when nothing came for a second; ends when the hub closes."""
    while True:
        try:
            async with asyncio.timeout(1.0):
                message = await reader.queue.get()
        except TimeoutError:
            yield None
            continue
        if message is None:
            return
        yield message


def _event(message: Message) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (str(message.position).encode(), message.data)
