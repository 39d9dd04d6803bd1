"""The one builder of every role's HTTP application."""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, Final

from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabmon.httpd.access import Access, Guarded
from fabmon.httpd.problems import HANDLERS
from fabmon.metrics import REQUESTS
from fabmon.wire.codec import encode

Endpoint = Callable[[Request], Awaitable[Response]]

_JSON: Final = "application/json"


def build_app(routes: Sequence[BaseRoute], access: Access | None) -> Starlette:
    """An application over *routes*; errors become problem+json, requests are counted by route and status.

    With *access* every request shows its token first; without, nobody asks.
    """
    middleware = [Middleware(_Counted), *([Middleware(Guarded, access)] if access else [])]
    app = Starlette(routes=list(routes), exception_handlers=dict(HANDLERS), middleware=middleware)
    app.router.redirect_slashes = False
    return app


def get(path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=["GET"])


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, _JSON)


class _Counted:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: Any = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            # The route's pattern, not the path: an id in a label would make a series of its own.
            route = scope.get("route")
            _count_of(getattr(route, "path", "unknown"), status).inc()


@cache
def _count_of(route: str, status: int) -> Counter:
    """Kept, because finding it costs a request more than counting: as many as there are routes and statuses."""
    return REQUESTS.labels(route, status)
