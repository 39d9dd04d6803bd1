"""What is told of each request: a count by route and status, a line in the log, its id in the answer, a span."""

from functools import cache
from time import perf_counter
from typing import Any, Final

import msgspec
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabmon import spans, trace
from fabmon.logs import REQUEST_LINES
from fabmon.metrics import REQUESTS

# Asked every few seconds by machines: of these only what went wrong is worth a line.
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics", "/v1/healthz"})


class Told:
    """ASGI middleware around all others, so that what they refuse is told too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        carried = trace.arrived(scope["headers"])
        span = None
        if spans.on():
            method = {"http.request.method": scope["method"], "fabmon.request_id": carried.request_id}
            span, traceparent = spans.begin(scope["method"], "SERVER", [carried], method)
            carried = msgspec.structs.replace(carried, traceparent=traceparent)
        trace.current.set(carried)
        status: Any = 0
        sent = 0

        async def watch(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", carried.request_id.encode())]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            # The route's pattern, not the path: an id in a label would make a series of its own.
            route = getattr(scope.get("route"), "path", "unknown")
            _count_of(route, status).inc()
            if REQUEST_LINES.on and (route not in _QUIET or status >= 400):
                seconds = perf_counter() - begun
                ids = carried.request_id, carried.trace_id
                REQUEST_LINES.add(scope["method"], route, status, seconds, _length(scope), sent, *ids)
            if span is not None:
                spans.end(span, status, f"{scope['method']} {route}")


@cache
def _count_of(route: str, status: int) -> Counter:
    """Kept, because finding it costs a request more than counting: as many as there are routes and statuses."""
    return REQUESTS.labels(route, status)


def _length(scope: Scope) -> int:
    """Of the body as it came; 0 where the request does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
