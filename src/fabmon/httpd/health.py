"""Health and metrics, the same on every role: /v1/healthz, /livez, /readyz, /metrics."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fabmon import metrics
from fabmon.httpd.app import get, json_answer

Health = Callable[[], Awaitable[dict[str, Any]]]
"""The answer of /v1/healthz; its `status` is `ok` or `degraded`."""

Check = Callable[[], Awaitable[str | None]]
"""None when the part is ready, else why not."""


def health_routes(
    health: Health, checks: Mapping[str, Check], refresh: Callable[[], None], *registries: CollectorRegistry
) -> list[Route]:
    """*checks* are the parts that /readyz asks; *refresh* sets gauges before /metrics is written from *registries*."""

    async def healthz(request: Request) -> Response:
        return json_answer(await health())

    async def livez(request: Request) -> Response:
        return json_answer({"status": "ok"})

    async def readyz(request: Request) -> Response:
        not_ready = {name: why for name, check in checks.items() if (why := await check()) is not None}
        if not_ready:
            return json_answer({"status": "not_ready", "not_ready": not_ready}, 503)
        return json_answer({"status": "ok"})

    async def exposition(request: Request) -> Response:
        refresh()
        return PlainTextResponse(metrics.exposition(registries), headers={"content-type": metrics.CONTENT_TYPE})

    return [get("/v1/healthz", healthz), get("/livez", livez), get("/readyz", readyz), get("/metrics", exposition)]
