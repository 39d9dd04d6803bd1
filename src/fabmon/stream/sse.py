"""GET /v1/stream: server-sent events, filtered here, resumed from Last-Event-ID without gap or repeat."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fabmon.errors import BadParameter, StoreUnavailable
from fabmon.httpd.asked import read_once
from fabmon.logs import Log
from fabmon.store.changes import Position, read_changes, read_head, read_position
from fabmon.store.pool import Pool
from fabmon.stream.hub import Burst, Filter, Hub, Reader
from fabmon.wire.event import SITE_ID_PATTERN, STATUS_OF_KIND, STATUSES
from fabmon.wire.ids import read_uuid

log = Log("fabmon.stream")

# A browser that lost the stream comes back after so long; its own choice would be three to five seconds.
RETRY_MILLISECONDS: Final = 2000
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
        wanted = read_filter(pairs)
        resume = _resume_from(request, dict(pairs).get("last_event_id"))
        if scope["method"] == "HEAD":
            await say_head(send)
            return
        with self._hub.reading() as reader:
            joined = await _joined(self._hub, reader, resume)
            await self._refuse_what_is_ahead(resume, joined)
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            async with asyncio.TaskGroup() as tasks:
                pump = tasks.create_task(self._pump(reader, wanted, resume, joined, send), name="stream-pump")
                watch = tasks.create_task(_until_disconnect(receive, reader), name="stream-watch")
                await reader.ended.wait()
                pump.cancel()
                watch.cancel()
            if reader.is_too_slow:
                log.warning("stream.cut_off", reason="it reads too slowly", action="the reader may resume by its id")

    async def _refuse_what_is_ahead(self, resume: Position | None, joined: Position) -> None:
        """An id of another database, or of one that was restored since: nothing could tell what was missed."""
        if resume is not None and resume > joined and resume.tx >= (await read_head(self._pool)).tx:
            raise BadParameter("last_event_id", f"{resume} lies ahead of this database: start without it")

    async def _pump(
        self, reader: Reader, wanted: Filter, resume: Position | None, joined: Position, send: Send
    ) -> None:
        try:
            async for block in self._blocks(reader, wanted, resume, joined):
                await send({"type": "http.response.body", "body": block, "more_body": True})
        except StoreUnavailable as error:
            log.warning("stream.cut_off", reason=str(error), action="the reader may resume by its id")
        else:
            await send({"type": "http.response.body", "body": b""})
        finally:
            reader.ended.set()

    async def _blocks(
        self, reader: Reader, wanted: Filter, resume: Position | None, joined: Position
    ) -> AsyncIterator[bytes]:
        """What the reader gets. Its id moves on with what the filters leave out, so that a resume does not start over."""
        position = resume or joined
        yield b"retry: %d\n: fabmon\nid: %b\n\n" % (RETRY_MILLISECONDS, str(position).encode())
        if resume is not None:
            # The long way first: a reader that takes part while it reads what it missed would be found too slow.
            async for burst in self._stored(position, None):
                yield burst.lines(wanted, position)
                position = burst.last
            async for burst in self._stored(position, await self._hub.attach(reader)):
                yield burst.lines(wanted, position)
                position = burst.last
        while (news := await reader.news()) is not None:
            block = b""
            for burst in news.bursts:
                # What another process had shown before the feed here came to it is not shown again.
                if burst.last > position:
                    block += burst.lines(wanted, position)
                    position = burst.last
            if news.beat:
                block += b": still here\nid: %b\n\n" % str(position).encode()
            if block:
                yield block

    async def _stored(self, after: Position, end: Position | None) -> AsyncIterator[Burst]:
        """What is stored behind *after*, up to *end*; without it, as long as there are whole pages."""
        while end is None or after < end:
            changes = await read_changes(self._pool, after, _PAGE)
            is_last = len(changes) < _PAGE
            if end is not None:
                changes = [change for change in changes if change.position <= end]
            if changes:
                yield Burst(changes)
                after = changes[-1].position
            if is_last:
                return


async def say_head(send: Send) -> None:
    """The answer to HEAD."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b""})


def read_filter(pairs: Sequence[tuple[str, str]]) -> Filter:
    """What the query string asks for; raises BadParameter for what it doesn't know."""
    asked = read_once(pairs)
    asked.pop("last_event_id", None)
    tests = [_test(name, value) for name, value in asked.items()]
    return Filter(tuple(sorted(asked.items())), lambda event: all(test(event) for test in tests))


def _test(name: str, value: str) -> Wanted:
    if name in _EXACT:
        wanted = frozenset(value.split(","))
        if not wanted <= _EXACT[name]:
            raise BadParameter(name, f"a comma list of {', '.join(sorted(_EXACT[name]))}")
        return lambda event: event[name] in wanted
    if name == "site_id":
        sites = frozenset(value.split(","))
        if not all(re.match(SITE_ID_PATTERN, site) for site in sites):
            raise BadParameter(name, "a comma list of sites")
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


async def _joined(hub: Hub, reader: Reader, resume: Position | None) -> Position:
    """Where the reader joins the feed; before it is known, an answer would promise events that may be missed."""
    try:
        async with asyncio.timeout(_JOIN_SECONDS):
            return await (hub.attach(reader) if resume is None else reader.joined)
    except TimeoutError:
        raise StoreUnavailable("the stream waits for the database") from None


async def _until_disconnect(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.ended.set()
