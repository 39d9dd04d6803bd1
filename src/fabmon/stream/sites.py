"""GET /v1/stream of central: the streams of several sites as one.

Each site is followed on a connection of its own, from where this reader was, and again when it comes back; what it says
of itself meanwhile is `site_down` and `site_up`. The id of each event names the place at every site, so that a reader
resumes all of them without gap or repeat.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fabmon.clock import monotonic
from fabmon.errors import BadParameter, Overloaded, PeerUnavailable
from fabmon.httpd.asked import read_once
from fabmon.metrics import STREAM_READERS
from fabmon.peer.backoff import full_jitter
from fabmon.peer.client import SILENCE_SECONDS, Peer
from fabmon.stream.hub import HEARTBEAT_SECONDS
from fabmon.stream.sse import HEADERS, RETRY_MILLISECONDS, read_filter, say_head
from fabmon.wire.codec import encode
from fabmon.wire.ids import read_sites_asked

MOST_READERS: Final = 500
QUEUE_BLOCKS: Final = 1000
CONNECT_SECONDS: Final = 3.0
LONGEST_PAUSE_SECONDS: Final = 2.0
# A reader that takes nothing for so long is cut off; its sites are held up by it, and resume it by its id.
STALLED_SECONDS: Final = 30.0
# Far more than an event may have.
_MOST_BLOCK_BYTES: Final = 8 * 1024 * 1024
_PLACE: Final = re.compile(r"\A([A-Za-z0-9._-]{1,64}):([0-9]{1,20}-[0-9]{1,19})\Z")

Block = tuple[str, str | None, bytes | None]
"""A site, its place when the block moves it on, and the lines to pass on when there are any."""


def merged_stream_routes(peers: Callable[[], Mapping[str, Peer]]) -> list[Route]:
    return [Route("/v1/stream", _Merged(peers), methods=["GET"])]


class _Merged:
    def __init__(self, peers: Callable[[], Mapping[str, Peer]]) -> None:
        self._peers = peers
        self._readers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        given = read_once(request.query_params.multi_items())
        peers = self._peers()
        sites = read_sites_asked(given.pop("site", ""), peers)
        places = read_places(request.headers.get("last-event-id") or given.pop("last_event_id", ""))
        filters = [(name, value) for name, value in given.items() if name != "last_event_id"]
        read_filter(filters)
        if scope["method"] == "HEAD":
            await say_head(send)
            return
        if self._readers >= MOST_READERS:
            raise Overloaded(f"the stream has {self._readers} readers, its most", retry_after_seconds=5)
        self._readers += 1
        STREAM_READERS.set(self._readers)
        try:
            await _serve({site: peers[site] for site in sites}, filters, places, receive, send)
        finally:
            self._readers -= 1
            STREAM_READERS.set(self._readers)


def read_places(text: str) -> dict[str, str]:
    """The place at each site, from `fab1:765-1,fab2:90-4`; raises BadParameter."""
    places: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        match = _PLACE.match(part)
        if match is None:
            raise BadParameter("last_event_id", f"{part[:60]!r} is no id of this stream")
        places[match[1]] = match[2]
    return places


async def _serve(
    peers: Mapping[str, Peer], filters: Sequence[tuple[str, str]], places: dict[str, str], receive: Receive, send: Send
) -> None:
    queue: asyncio.Queue[Block] = asyncio.Queue(QUEUE_BLOCKS)
    gone = asyncio.Event()
    joined = {site: asyncio.Event() for site in peers}
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_follow(site, peer, filters, places, queue, joined[site]), name=f"follow-{site}")
            for site, peer in peers.items()
        ]
        running.append(tasks.create_task(_write(queue, places, joined, send, gone), name="merged-write"))
        running.append(tasks.create_task(_watch(receive, gone), name="merged-watch"))
        await gone.wait()
        for task in running:
            task.cancel()


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _write(
    queue: asyncio.Queue[Block],
    places: dict[str, str],
    joined: Mapping[str, asyncio.Event],
    send: Send,
    gone: asyncio.Event,
) -> None:
    """Write what the sites say, each event with the place at all of them."""
    try:
        # The head promises every event from now on, so each site must have been joined, or have been found away.
        for event in joined.values():
            await event.wait()
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        # With the place at every site that was joined, so that a reader who leaves before the first event misses none.
        begin = b"retry: %d\n: fabmon\n%b\n\n" % (RETRY_MILLISECONDS, _id(places))
        await send({"type": "http.response.body", "body": begin, "more_body": True})
        sent = monotonic()
        while True:
            lines: bytes | None = None
            try:
                async with asyncio.timeout(1.0):
                    site, place, lines = await queue.get()
                if place is not None:
                    places[site] = place
            except TimeoutError:
                pass
            if lines is None and monotonic() - sent < HEARTBEAT_SECONDS:
                continue
            body = b"%b\n%b\n\n" % (_id(places), lines or b": still here")
            async with asyncio.timeout(STALLED_SECONDS):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            sent = monotonic()
    except TimeoutError:
        pass  # stalled: cut off
    finally:
        gone.set()


async def _follow(
    site: str,
    peer: Peer,
    filters: Sequence[tuple[str, str]],
    places: dict[str, str],
    queue: asyncio.Queue[Block],
    joined: asyncio.Event,
) -> None:
    """Follow one site for good, from its place on, and say when it goes and comes back."""
    place = places.get(site)
    delays = full_jitter(most_seconds=LONGEST_PAUSE_SECONDS)
    down = False
    while True:
        resume = [("last_event_id", place)] if place else []
        try:
            async with aclosing(site_blocks(peer, [*filters, *resume])) as blocks:
                async for block in blocks:
                    if down:
                        down = False
                        await queue.put((site, None, _named("site_up", {"site": site})))
                        delays = full_jitter(most_seconds=LONGEST_PAUSE_SECONDS)
                    moved, data = _read(block)
                    place = moved or place
                    if place is not None and site not in places:
                        places[site] = place
                    await queue.put((site, moved, data))
                    joined.set()
        except PeerUnavailable as error:
            joined.set()
            if not down:
                down = True
                await queue.put((site, None, _named("site_down", {"site": site, "error": str(error)})))
        await asyncio.sleep(next(delays))


async def site_blocks(
    peer: Peer, query: Sequence[tuple[str, str]], silence_seconds: float = SILENCE_SECONDS
) -> AsyncGenerator[bytes]:
    """The blocks of a site's stream as they come; raises PeerUnavailable when it ends, or brings no whole one in time.

    Bytes that come say nothing of that: a site may send one a second and never end a line.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CONNECT_SECONDS
    status, _, parts = await peer.stream("/v1/stream", query, {}, CONNECT_SECONDS)
    if status != 200:
        raise PeerUnavailable(f"{peer.url} answered {status}")
    buffer = bytearray()
    async with aclosing(parts):
        while True:
            found: list[bytes] = []
            try:
                async with asyncio.timeout_at(deadline):
                    while not found:
                        if len(buffer) > _MOST_BLOCK_BYTES:
                            raise PeerUnavailable(f"{peer.url} sends no end of an event")
                        if not (part := await anext(parts, b"")):
                            raise PeerUnavailable(f"{peer.url} ended the stream")
                        found = _completed(buffer, part)
            except TimeoutError:
                raise PeerUnavailable(f"{peer.url} sent no whole event in time") from None
            for block in found:
                yield block
            deadline = loop.time() + silence_seconds


def _completed(buffer: bytearray, part: bytes) -> list[bytes]:
    """The blocks that *part* completes; what comes behind them stays in *buffer*."""
    searched = max(len(buffer) - 1, 0)
    buffer += part
    end = buffer.rfind(b"\n\n", searched)
    if end < 0:
        return []
    blocks = bytes(buffer[:end]).split(b"\n\n")
    del buffer[: end + 2]
    return blocks


def _read(block: bytes) -> tuple[str | None, bytes | None]:
    """The id of a block, and its data line."""
    place = data = None
    for line in block.split(b"\n"):
        if line.startswith(b"id: "):
            place = line[4:].decode("ascii", "replace")
        elif line.startswith(b"data: "):
            data = line
    return (place if place is not None and _PLACE.match(f"x:{place}") else None), data


def _id(places: Mapping[str, str]) -> bytes:
    """The line that names the place at every site; none is known while all are away."""
    merged = ",".join(f"{site}:{place}" for site, place in sorted(places.items())).encode()
    return b"id: " + merged if merged else b":"


def _named(event: str, facts: dict[str, str]) -> bytes:
    return b"event: %b\ndata: %b" % (event.encode(), encode(facts))
