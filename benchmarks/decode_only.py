"""The limit of the benchmarks of ingest: the same server, routes and application, that only decodes and answers.

Under /v1/decode it does so as Starlette's users do, with a Request and a Response.

python -m benchmarks.decode_only PORT
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope

from fabmon import logs
from fabmon.httpd.app import build_app
from fabmon.httpd.body import read_body
from fabmon.httpd.health import health_routes
from fabmon.httpd.role import Role
from fabmon.ingest.accept import Door
from fabmon.run import run_role
from fabmon.settings import SidecarSettings
from fabmon.wire.event import BATCH_LIMIT_BYTES, EVENT_LIMIT_BYTES, Event

_ONE = msgspec.json.Decoder(Event)
_MANY = msgspec.json.Decoder(list[Event])


async def _take_one(scope: Scope, receive: Receive) -> tuple[int, bytes]:
    _ONE.decode(await read_body(scope, receive, EVENT_LIMIT_BYTES))
    return 200, b'{"ok":true}'


async def _take_batch(scope: Scope, receive: Receive) -> tuple[int, bytes]:
    _MANY.decode(await read_body(scope, receive, BATCH_LIMIT_BYTES))
    return 200, b'{"ok":true,"rejected":[]}'


async def _decode(request: Request) -> Response:
    _ONE.decode(await request.body())
    return Response(b'{"ok":true}', media_type="application/json")


async def _health() -> dict[str, object]:
    return {}


@asynccontextmanager
async def _open() -> AsyncIterator[Role]:
    routes = [
        Route("/v1/ingest/events", Door(_take_one), methods=["POST"]),
        Route("/v1/ingest/events:batch", Door(_take_batch), methods=["POST"]),
        Route("/v1/decode", _decode, methods=["POST"]),
        *health_routes(_health, {}, lambda: None),
    ]
    yield Role(build_app(routes, None))


if __name__ == "__main__":
    logs.configure("limit", "info", requests=True)  # as `fabmon serve` does
    run_role(_open(), SidecarSettings(), int(sys.argv[1]), with_parent=False)
