"""GET or POST /v1/ping/{app}/{key}/{state}: a run reported by an address alone, for `curl`, cron and PLC gateways.

    curl -fsS -m 2 "$FABMON_URL/v1/ping/backup/nightly/started?rid=2026-11-23"

*state*: started, progress, succeeded, failed or canceled. The key may hold slashes. In the query:

- `rid`: the run's id, any text. Without it app and key are the run, which then shows its last end: fine for "how did it go
  last time", while a history of runs needs a `rid`, such as the date or the shell's `$$`.
- `at`: when it was, RFC 3339 with an offset. Default: the time of receipt, in whole seconds.
- `progress`: a number, with any state.
- `site`: the site; default FABMON_SITE_ID of this role. One of the two is needed.

Idempotent by content: site, app, key, state, rid, progress and time make the idempotency key, so a request that is repeated
(with `at`, or within the same second) is stored once. A body is not read. Answers are those of /v1/ingest/events.
"""

from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID, uuid5

from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope

from fabmon.clock import now
from fabmon.errors import BadParameter
from fabmon.ingest.accept import Door, Take, put_one
from fabmon.wire.codec import encode
from fabmon.wire.event import Sink
from fabmon.wire.ids import app_of

STATES: Final = {
    "started": "started",
    "progress": "progress",
    "succeeded": "finished",
    "failed": "error",
    "canceled": "canceled",
}
PARAMETERS: Final = frozenset({"rid", "at", "site", "progress"})

_NAMESPACE: Final = UUID("1f1d0a5e-6f0b-4c36-8c4e-5b1c7a3e9d02")


def ping_routes(sink: Sink, site_id: str | None) -> list[Route]:
    """The route over *sink*; *site_id* is the only site that is taken, when the role has one."""
    return [Route("/v1/ping/{app}/{key:path}/{state}", Door(_take(sink, site_id)), methods=["GET", "POST"])]


def _take(sink: Sink, site_id: str | None) -> Take:
    async def take(scope: Scope, receive: Receive) -> tuple[int, bytes]:
        if scope["method"] == "HEAD":  # a look must not report anything
            raise HTTPException(405, headers={"allow": "GET, POST"})
        parts = scope["path_params"]
        body = _event(parts["app"], parts["key"], parts["state"], _parameters(scope["query_string"]), site_id)
        return await put_one(sink, body, site_id)

    return take


def _parameters(query: bytes) -> dict[str, str]:
    """The query; a `+` is what it is in `at`, where it stands before an offset."""
    try:
        pairs = parse_qsl(query.replace(b"+", b"%2B").decode("ascii"), keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise BadParameter("query", "it is no valid URL encoding") from None
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name not in PARAMETERS:
            raise BadParameter(name[:60], f"there are {', '.join(sorted(PARAMETERS))}")
        if name in parameters:
            raise BadParameter(name, "it is given twice")
        parameters[name] = value
    return parameters


def _event(app: str, key: str, state: str, parameters: dict[str, str], site_id: str | None) -> bytes:
    if not key:
        raise BadParameter("key", "it is empty: /v1/ping/APP/KEY/STATE")
    if state not in STATES:
        raise BadParameter("state", f"{state[:60]!r} is none of {', '.join(STATES)}")
    site = parameters.get("site") or site_id
    if not site:
        raise BadParameter("site", "it is needed here: ?site=NAME, or FABMON_SITE_ID where this role runs")
    rid = parameters.get("rid", "")
    at = parameters.get("at") or now().replace(microsecond=0).isoformat()
    progress = _number(parameters["progress"]) if "progress" in parameters else None
    return encode(
        {
            "idempotency_key": _id("event", site, app, key, rid, state, at, str(progress)),
            "site_id": site,
            "app": app_of(app),
            "entity": {"type": "job", "id": _id("run", site, app, key, rid), "business_key": key},
            "event": {
                "kind": STATES[state],
                "at": at,
                "metrics": {} if progress is None else {"progress": progress},
                "metadata": {"rid": rid} if rid else {},
            },
        }
    )


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("inf")
    if number - number != 0:
        raise BadParameter("progress", f"{text[:60]!r} is no number")
    return number


def _id(*parts: str) -> UUID:
    """The id of these texts, as a JSON array: no two lists of parts read the same."""
    return uuid5(_NAMESPACE, encode(parts).decode())
