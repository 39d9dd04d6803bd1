"""The one builder of every role's HTTP application."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fabmon.httpd.access import Access, Guarded
from fabmon.httpd.problems import HANDLERS
from fabmon.httpd.told import Told
from fabmon.wire.codec import encode

Endpoint = Callable[[Request], Awaitable[Response]]

_JSON: Final = "application/json"


def build_app(routes: Sequence[BaseRoute], access: Access | None) -> Starlette:
    """An application over *routes*; errors become problem+json, each request is told (told.py).

    With *access* every request shows its token first; without, nobody asks.
    """
    middleware = [Middleware(Told), *([Middleware(Guarded, access)] if access else [])]
    app = Starlette(routes=list(routes), exception_handlers=dict(HANDLERS), middleware=middleware)
    app.router.redirect_slashes = False
    return app


def get(path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=["GET"])


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, _JSON)
