"""GET /v1/jobs and /v1/subjobs of one site."""

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabmon.clock import monotonic
from fabmon.httpd.app import get, json_answer
from fabmon.query.params import read_selection, write_cursor
from fabmon.store.jobs import read_page
from fabmon.store.pool import Pool


def job_routes(pool: Pool, stale_after_seconds: float) -> list[Route]:
    async def jobs(request: Request) -> Response:
        return await answer("job", request)

    async def subjobs(request: Request) -> Response:
        return await answer("subjob", request)

    async def answer(entity_type: Literal["job", "subjob"], request: Request) -> Response:
        begun = monotonic()
        pairs = request.query_params.multi_items()
        page = await read_page(pool, read_selection(entity_type, pairs, stale_after_seconds))
        body: dict[str, Any] = {
            "items": page.items,
            "count": len(page.items),
            "duration_s": round(monotonic() - begun, 6),
            "next_cursor": write_cursor(page.last, pairs) if page.last else None,
        }
        return json_answer(body)

    return [get("/v1/jobs", jobs), get("/v1/subjobs", subjobs)]
