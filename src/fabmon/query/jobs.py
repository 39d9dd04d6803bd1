"""GET /v1/jobs and /v1/subjobs of one site: lists, exports, and one run with its events and subjobs."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fabmon.clock import monotonic
from fabmon.errors import BadParameter, NotFound
from fabmon.httpd.abandon import Streamed, abandonable, until_disconnect
from fabmon.httpd.app import get, json_answer
from fabmon.httpd.asked import read_once
from fabmon.query.complete import Completeness
from fabmon.query.cursor import read_event_cursor, write_cursor, write_event_cursor
from fabmon.query.params import read_flag, read_form, read_limit, read_selection
from fabmon.store.jobs import count, export, read_page, read_run, read_run_events
from fabmon.store.pool import Pool
from fabmon.store.selection import DEFAULT_LIMIT, Selection
from fabmon.wire.ids import read_uuid

EntityType = Literal["job", "subjob"]
_TYPES: Final = {"csv": "text/csv; charset=utf-8; header=present", "ndjson": "application/x-ndjson"}


def job_routes(pool: Pool, complete: Completeness, stale_after_seconds: float) -> list[Route]:
    def selection_of(entity_type: EntityType, pairs: Sequence[tuple[str, str]]) -> Selection:
        return read_selection(entity_type, pairs, stale_after_seconds)

    return [
        Route("/v1/jobs", _List(pool, complete, "job", selection_of), methods=["GET"]),
        Route("/v1/subjobs", _List(pool, complete, "subjob", selection_of), methods=["GET"]),
        get("/v1/jobs/{id}", abandonable(_one(pool, "job"))),
        get("/v1/jobs/{id}/events", abandonable(_events(pool, complete, "job"))),
        Route("/v1/jobs/{id}/subjobs", _List(pool, complete, "subjob", selection_of), methods=["GET"]),
        get("/v1/subjobs/{id}", abandonable(_one(pool, "subjob"))),
        get("/v1/subjobs/{id}/events", abandonable(_events(pool, complete, "subjob"))),
    ]


class _List:
    """A list as a page of JSON, or whole as CSV or NDJSON; an ASGI endpoint, because an export is written as it comes."""

    def __init__(self, pool: Pool, complete: Completeness, entity_type: EntityType, selection_of: Any) -> None:
        self._pool = pool
        self._complete = complete
        self._entity_type = entity_type
        self._selection_of = selection_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        pairs = request.query_params.multi_items()
        if job := request.path_params.get("id"):
            pairs.append(("job_id", str(read_uuid("id", job))))
        selection = self._selection_of(self._entity_type, pairs)
        form = read_form(pairs, request.headers.get("accept", ""))
        if form != "json":
            await Streamed(export(self._pool, selection, form), _TYPES[form])(scope, receive, send)
            return
        body = await until_disconnect(receive, _page(self._pool, self._complete, selection, pairs))
        if body is not None:
            await json_answer(body)(scope, receive, send)


async def _page(
    pool: Pool, complete: Completeness, selection: Selection, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    begun = monotonic()
    until = await complete.until()
    page = await read_page(pool, selection)
    body: dict[str, Any] = {"items": page.items, "count": len(page.items)}
    if read_flag(pairs, "count"):
        body["total"], body["total_exact"] = await count(pool, selection)
    body["duration_s"] = round(monotonic() - begun, 6)
    body["next_cursor"] = write_cursor(selection.entity_type, page.last, pairs) if page.last else None
    body["complete_until"] = until
    return body


def _one(pool: Pool, entity_type: EntityType) -> Any:
    async def endpoint(request: Request) -> Response:
        _no_parameters(request)
        run = read_uuid("id", request.path_params["id"])
        row = await read_run(pool, entity_type, run)
        if row is None:
            raise NotFound(f"no {entity_type} {run} is known here")
        return json_answer(row)

    return endpoint


def _events(pool: Pool, complete: Completeness, entity_type: EntityType) -> Any:
    async def endpoint(request: Request) -> Response:
        begun = monotonic()
        run = read_uuid("id", request.path_params["id"])
        given = read_once(request.query_params.multi_items())
        limit = read_limit(given.pop("limit", None)) or DEFAULT_LIMIT
        cursor = given.pop("cursor", None)
        for name in given:
            raise BadParameter(name[:60], "unknown parameter")
        after = read_event_cursor(cursor, run) if cursor is not None else None
        until = await complete.until()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read_run_events(pool, entity_type, run, after, limit), name="events")
            known = tasks.create_task(read_run(pool, entity_type, run), name="run")
        if known.result() is None:
            raise NotFound(f"no {entity_type} {run} is known here")
        page = _events_page(reading.result(), limit, run, monotonic() - begun)
        return json_answer(page | {"complete_until": until})

    return endpoint


def _events_page(rows: list[dict[str, Any]], limit: int, run: UUID, seconds: float) -> dict[str, Any]:
    cursor = None
    if len(rows) > limit:
        rows = rows[:limit]
        last = rows[-1]
        at: datetime = last["at"]
        cursor = write_event_cursor(run, at, last["kind"], last["idempotency_key"])
    return {"items": rows, "count": len(rows), "duration_s": round(seconds, 6), "next_cursor": cursor}


def _no_parameters(request: Request) -> None:
    for name in request.query_params:
        raise BadParameter(name[:60], "unknown parameter")
