"""GET /v1/stream: server-sent events, filtered here, resumed from Last-Event-ID without gap or repeat."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fabmon.errors import BadParameter
from fabmon.httpd.app import get
from fabmon.store.changes import Position, read_changes, read_position
from fabmon.store.pool import Pool
from fabmon.stream.hub import Hub, Message, Reader, to_message

HEARTBEAT_SECONDS: Final = 15.0
_PAGE: Final = 1000
_EXACT: Final = ("entity_type", "kind", "status", "site_id")
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

Wanted = Callable[[dict[str, Any]], bool]


def stream_routes(pool: Pool, hub: Hub) -> list[Route]:
    async def stream(request: Request) -> Response:
        pairs = request.query_params.multi_items()
        wanted = read_filters(pairs)
        resume = _resume_from(request, dict(pairs).get("last_event_id"))
        lines = _lines(pool, hub, wanted, resume)
        # The first line is asked for here, so that "too many readers" is still an answer and not a broken stream.
        first = await anext(lines)
        return StreamingResponse(_with_first(first, lines), media_type="text/event-stream", headers=_HEADERS)

    return [get("/v1/stream", stream)]


def read_filters(pairs: Sequence[tuple[str, str]]) -> Wanted:
    """What the query string asks for, as a test of one event; raises BadParameter for what it doesn't know."""
    tests: list[Wanted] = []
    for name, value in pairs:
        if name == "last_event_id":
            continue
        if name in _EXACT:
            values = frozenset(value.split(","))
            tests.append(lambda event, name=name, values=values: event[name] in values)  # type: ignore[misc]
        elif name == "app_name":
            part = value.lower()
            tests.append(lambda event, part=part: part in event["app_name"].lower())  # type: ignore[misc]
        elif name == "job_id":
            job = value.lower()
            tests.append(lambda event, job=job: job in (str(event["entity_id"]), str(event["parent_id"])))  # type: ignore[misc]
        else:
            raise BadParameter(name[:60], "unknown parameter")
    return lambda event: all(test(event) for test in tests)


def _resume_from(request: Request, parameter: str | None) -> Position | None:
    # An EventSource that reconnects by itself sends the header; the parameter is for the first connection.
    text = request.headers.get("last-event-id") or parameter
    if not text:
        return None
    position = read_position(text)
    if position is None:
        raise BadParameter("last_event_id", f"{text[:60]!r} is no id of this stream")
    return position


async def _lines(pool: Pool, hub: Hub, wanted: Wanted, resume: Position | None) -> AsyncIterator[bytes]:
    with hub.reading() as reader:
        joined = hub.position
        yield b": fabmon\n\n"
        async for message in _from_store(pool, resume, joined):
            if wanted(message.event):
                yield _event(message)
        async for live in _from_hub(reader):
            if live is None:
                yield b": still here\n\n"
            elif (resume is None or live.position > resume) and wanted(live.event):
                yield _event(live)


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
    """The live messages, and None when nothing came for a while; ends when the reader was cut off."""
    while not reader.lost:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                message = await reader.queue.get()
        except TimeoutError:
            yield None
            continue
        if message is None:
            return
        yield message


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in rest:
        yield line


def _event(message: Message) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (str(message.position).encode(), message.data)
