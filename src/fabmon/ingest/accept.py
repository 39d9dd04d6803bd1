"""The front doors for events: POST /v1/ingest/events and /v1/ingest/events:batch, on sidecar and local alike.

The other doors, ping.py and openlineage.py, make events of what they get and go on here.

Plain ASGI: these two carry nearly all requests, and a Request object costs as much as decoding an event. The sink behind
them decides what durable means; they only judge the events and say what became of them.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Final, Literal

from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fabmon.clock import now
from fabmon.errors import BadEvent
from fabmon.httpd.body import read_body
from fabmon.metrics import EVENTS
from fabmon.wire.codec import encode
from fabmon.wire.event import (
    BATCH_LIMIT_BYTES,
    EVENT_LIMIT_BYTES,
    Batch,
    Receipt,
    Rejection,
    Sink,
    as_line,
    read_batch,
    read_event,
)

Style = Literal["sidecar", "local"]

_STORED, _DUPLICATE, _SPOOLED, _REJECTED = map(EVENTS.labels, ("stored", "duplicate", "spooled", "rejected"))
_HEADERS: Final = (b"content-type", b"application/json")


def ingest_routes(sink: Sink, style: Style, site_id: str | None) -> list[Route]:
    """Both routes over *sink*; *style* says which of the two answers in docs/api.md a batch gets."""
    return [
        Route("/v1/ingest/events", Door(_take_one(sink, site_id)), methods=["POST"]),
        Route("/v1/ingest/events:batch", Door(_take_batch(sink, style, site_id)), methods=["POST"]),
    ]


Take = Callable[[Scope, Receive], Awaitable[tuple[int, bytes]]]


class Door:
    """An ASGI endpoint; a class, because Starlette takes functions for `Request` handlers."""

    def __init__(self, take: Take) -> None:
        self._take = take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, body = await self._take(scope, receive)
        except ClientDisconnect:
            return
        headers = [_HEADERS, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _take_one(sink: Sink, site_id: str | None) -> Take:
    async def take(scope: Scope, receive: Receive) -> tuple[int, bytes]:
        return await put_one(sink, await read_body(scope, receive, EVENT_LIMIT_BYTES), site_id)

    return take


async def put_one(sink: Sink, body: bytes, site_id: str | None) -> tuple[int, bytes]:
    """Judge the one event in *body*, hand it on, and answer. Raises what the caller did wrong."""
    event = read_event(body, now=now(), site_id=site_id)
    receipt = await sink(Batch([event], [as_line(body)]))
    _count(receipt)
    if receipt.rejected:
        raise BadEvent(receipt.rejected[0].detail, receipt.rejected[0].code)
    return 200, b'{"ok":true,"duplicate":true}' if receipt.duplicates else b'{"ok":true}'


def _take_batch(sink: Sink, style: Style, site_id: str | None) -> Take:
    async def take(scope: Scope, receive: Receive) -> tuple[int, bytes]:
        body = await read_body(scope, receive, BATCH_LIMIT_BYTES)
        batch = read_batch(body, now=now(), site_id=site_id)
        return await put_batch(sink, style, batch, len(batch.raws) + len(batch.rejected))

    return take


async def put_batch(
    sink: Sink, style: Style, batch: Batch, total: int, unstored: Collection[int] = ()
) -> tuple[int, bytes]:
    """Hand the good events of *batch* on, and answer for all; of *total* elements those *unstored* are no events."""
    receipt = await sink(batch) if batch.raws else Receipt()
    rejected = _all_rejected(batch, receipt, total, unstored)
    _count(receipt, len(batch.rejected))
    status = 200 if not rejected else 422 if len(rejected) == total else 207
    answer: dict[str, object] = {"ok": not rejected}
    if style == "sidecar":
        answer |= {"forwarded": receipt.stored + receipt.duplicates, "spooled": receipt.spooled}
    else:
        answer |= {"stored": receipt.stored, "duplicates": receipt.duplicates, "spooled": receipt.spooled}
    return status, encode(answer | {"rejected": rejected})


def _all_rejected(batch: Batch, receipt: Receipt, total: int, unstored: Collection[int]) -> list[Rejection]:
    """What the rules refused and what the sink refused, with places in the body as it came."""
    if not receipt.rejected:
        return list(batch.rejected)
    refused = {why.index for why in batch.rejected} | set(unstored)
    places = [place for place in range(total) if place not in refused]
    late = [Rejection(places[why.index], why.code, why.detail) for why in receipt.rejected]
    return sorted([*batch.rejected, *late], key=lambda why: why.index)


def _count(receipt: Receipt, rejected: int = 0) -> None:
    for count, number in (
        (_STORED, receipt.stored),
        (_DUPLICATE, receipt.duplicates),
        (_SPOOLED, receipt.spooled),
        (_REJECTED, rejected + len(receipt.rejected)),
    ):
        if number:
            count.inc(number)
