"""GET /v1/sidecars: who sends events here, when each was heard, and what it holds back."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabmon.errors import BadParameter
from fabmon.httpd.abandon import abandonable
from fabmon.httpd.app import get, json_answer
from fabmon.store.pool import Pool
from fabmon.store.sidecars import complete_until, read_sidecars


def sidecar_routes(pool: Pool) -> list[Route]:
    async def sidecars(request: Request) -> Response:
        for name in request.query_params:
            raise BadParameter(name[:60], "this list takes no parameters")
        until = await complete_until(pool)
        items = await read_sidecars(pool)
        return json_answer({"items": items, "count": len(items), "complete_until": until})

    return [get("/v1/sidecars", abandonable(sidecars))]
