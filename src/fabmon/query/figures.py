"""GET /v1/apps and /v1/stats of one site: figures for charts and for a first look."""

import re
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabmon.clock import monotonic, now
from fabmon.errors import BadParameter
from fabmon.httpd.abandon import abandonable
from fabmon.httpd.app import get, json_answer
from fabmon.httpd.asked import read_once
from fabmon.query.complete import Completeness
from fabmon.query.params import read_time
from fabmon.store.figures import read_apps, read_stats
from fabmon.store.pool import Pool

APPS_SINCE: Final = timedelta(days=30)
STATS_SINCE: Final = timedelta(hours=24)
MOST_BUCKETS: Final = 1000
MOST_ROWS: Final = 10_000
_BUCKET: Final = re.compile(r"\A([1-9][0-9]{0,4})(s|m|h|d)\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BY: Final = ("status", "app", "site")


def figure_routes(pool: Pool, complete: Completeness) -> list[Route]:
    async def apps(request: Request) -> Response:
        begun = monotonic()
        given = read_once(request.query_params.multi_items())
        since = read_time("from", given.pop("from")) if "from" in given else now() - APPS_SINCE
        _refuse(given)
        until = await complete.until()
        items = [_app(row) for row in await read_apps(pool, since)]
        return json_answer(_answer(items, begun) | {"from": since, "complete_until": until})

    async def stats(request: Request) -> Response:
        begun = monotonic()
        given = read_once(request.query_params.multi_items())
        end = read_time("to", given.pop("to")) if "to" in given else now()
        begin = read_time("from", given.pop("from")) if "from" in given else _before(end)
        bucket = _bucket(given.pop("bucket", None), begin, end)
        by = given.pop("by", None)
        if by is not None and by not in _BY:
            raise BadParameter("by", f"one of {', '.join(_BY)}")
        _refuse(given)
        until = await complete.until()
        items = await read_stats(pool, begin, end, bucket, by)
        if len(items) > MOST_ROWS:
            raise BadParameter("bucket", f"gives more than {MOST_ROWS} rows: choose a longer one, or a shorter window")
        for item in items:
            if by is None:
                del item["by"]
        asked = {"from": begin, "to": end, "bucket_s": bucket.total_seconds(), "by": by}
        return json_answer(_answer(items, begun) | asked | {"complete_until": until})

    return [get("/v1/apps", abandonable(apps)), get("/v1/stats", abandonable(stats))]


def _before(end: datetime) -> datetime:
    try:
        return end - STATS_SINCE
    except OverflowError:
        raise BadParameter("to", "lies before all time") from None


def _app(row: dict[str, Any]) -> dict[str, Any]:
    statuses = {status: row.pop(status) for status in ("running", "succeeded", "failed", "canceled")}
    return row | {"versions": sorted(row["versions"] or []), "by_status": statuses}


def _bucket(text: str | None, begin: datetime, end: datetime) -> timedelta:
    """The bucket's length; without one, the window in at most a hundred or so."""
    if begin >= end:
        raise BadParameter("from", "must lie before `to`")
    if text is None:
        wanted = (end - begin) / 96
        return next((size for size in _SIZES if size >= wanted), _SIZES[-1])
    match = _BUCKET.match(text)
    if match is None:
        raise BadParameter("bucket", "a number and s, m, h or d, as in 15m")
    bucket = timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if (end - begin) / bucket > MOST_BUCKETS:
        raise BadParameter("bucket", f"gives more than {MOST_BUCKETS} buckets: choose a longer one")
    return bucket


def _answer(items: list[dict[str, Any]], begun: float) -> dict[str, Any]:
    return {"items": items, "count": len(items), "duration_s": round(monotonic() - begun, 6)}


def _refuse(given: dict[str, str]) -> None:
    for name in given:
        raise BadParameter(name[:60], "unknown parameter")


_SIZES: Final = [
    timedelta(seconds=seconds)
    for seconds in (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)
]
