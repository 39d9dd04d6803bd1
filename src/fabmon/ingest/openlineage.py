"""POST /api/v1/lineage and /api/v1/lineage/batch: what Airflow, Spark, dbt and Flink send already, as events.

| OpenLineage | fabmon |
|---|---|
| START · RUNNING · COMPLETE · FAIL · ABORT · OTHER or none | started · progress · finished · error · canceled · metric |
| run.runId | the id of the job or subjob |
| job.namespace, job.name | app, key |
| run.facets.parent | makes it a subjob of `root`, else of `run`, there; `parent_run`, `parent_job` in the metadata |
| run.facets.errorMessage | `error`, `error_at` (the stack trace, cut) in the metadata |
| producer, names of inputs and outputs, nominal start, job type | metadata |
| run, type, time and the body with its keys in order | the idempotency key: a body that is sent again is stored once |

The site is `?site=`, else FABMON_SITE_ID of this role; one of them is needed. JobEvent and DatasetEvent tell nothing of a
run: they are answered 2xx and counted (fabmon_events_total{outcome="no_run"}), not stored. Nothing is remembered between
events, so a producer that sends the parent facet with some events of a run only, makes of it a job and a subjob.
Answers are those of the ingest routes; back-pressure is 503.
"""

from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID, uuid5

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope

from fabmon.clock import now
from fabmon.errors import BadEvent, BadParameter, NotAnArray, NotJson, TooLarge
from fabmon.httpd.body import read_body
from fabmon.ingest.accept import Door, Style, Take, put_batch, put_one
from fabmon.metrics import EVENTS
from fabmon.wire.codec import ANY, encode
from fabmon.wire.event import BATCH_LIMIT_BYTES, BATCH_LIMIT_EVENTS, Batch, Event, Rejection, Sink, read_event
from fabmon.wire.ids import app_of

KINDS: Final = {
    "START": "started",
    "RUNNING": "progress",
    "COMPLETE": "finished",
    "FAIL": "error",
    "ABORT": "canceled",
    "OTHER": "metric",
}
TEXT_LIMIT_CHARACTERS: Final = 2_000
NAMES_LIMIT: Final = 20
NAME_LIMIT_CHARACTERS: Final = 500

_NAMESPACE: Final = UUID("5c3bb6cb-4b62-4b0a-a9c3-0d0f0f6a7e21")
_CANONICAL: Final = msgspec.json.Encoder(order="sorted").encode


def openlineage_routes(sink: Sink, style: Style, site_id: str | None) -> list[Route]:
    return [
        Route("/api/v1/lineage", Door(_take_one(sink, site_id)), methods=["POST"]),
        Route("/api/v1/lineage/batch", Door(_take_batch(sink, style, site_id)), methods=["POST"]),
    ]


def _take_one(sink: Sink, site_id: str | None) -> Take:
    async def take(scope: Scope, receive: Receive) -> tuple[int, bytes]:
        site = _site(scope, site_id)
        line = event_line(_decode(await read_body(scope, receive, BATCH_LIMIT_BYTES)), site)
        if line is None:
            EVENTS.labels("no_run").inc()
            return 200, b'{"ok":true}'
        return await put_one(sink, line, site_id)

    return take


def _take_batch(sink: Sink, style: Style, site_id: str | None) -> Take:
    async def take(scope: Scope, receive: Receive) -> tuple[int, bytes]:
        site = _site(scope, site_id)
        body = _decode(await read_body(scope, receive, BATCH_LIMIT_BYTES))
        if not isinstance(body, list):
            raise NotAnArray("a batch is a JSON array of OpenLineage events")
        if len(body) > BATCH_LIMIT_EVENTS:
            raise TooLarge(f"{len(body)} events; a batch holds at most {BATCH_LIMIT_EVENTS}", "too_many_events")
        events: list[Event] = []
        lines: list[bytes] = []
        rejected: list[Rejection] = []
        no_run: list[int] = []
        for index, element in enumerate(body):
            try:
                line = event_line(element, site)
                if line is None:
                    no_run.append(index)
                    continue
                events.append(read_event(line, now=now(), site_id=site_id))
                lines.append(line)
            except (BadEvent, NotJson) as error:
                rejected.append(Rejection(index, error.code, str(error)))
        answer = await put_batch(sink, style, Batch(events, lines, rejected), len(body), no_run)
        if no_run:
            EVENTS.labels("no_run").inc(len(no_run))
        return answer

    return take


def event_line(body: object, site_id: str) -> bytes | None:
    """The event that one OpenLineage event means, as JSON; None for one that is about no run. Raises BadEvent."""
    if not isinstance(body, dict):
        raise BadEvent("an OpenLineage event is a JSON object", "not_an_object")
    run, job = body.get("run"), body.get("job")
    if run is None and ("job" in body or "dataset" in body):
        return None
    if not isinstance(run, dict) or not isinstance(job, dict):
        raise BadEvent("a RunEvent needs run and job", "missing_field")
    for name, value in (("run.runId", run.get("runId")), ("eventTime", body.get("eventTime"))):
        if not isinstance(value, str):
            raise BadEvent(f"{name} is missing", "missing_field")
    kind = KINDS.get(str(body.get("eventType") or "OTHER").upper())
    if kind is None:
        raise BadEvent(f"eventType: {str(body['eventType'])[:60]!r} is none of {', '.join(KINDS)}", "bad_kind")
    parent = _object(_object(run.get("facets")).get("parent"))
    entity: dict[str, object] = {"type": "job", "id": run["runId"], "business_key": job.get("name")}
    if parent:
        above = _object(parent.get("root")) or parent
        entity = {
            "type": "subjob",
            "id": run["runId"],
            "parent_id": _object(above.get("run")).get("runId"),
            "business_key": _object(above.get("job")).get("name"),
            "sub_key": job.get("name"),
        }
    namespace = job.get("namespace")
    return encode(
        {
            "idempotency_key": _key(body),
            "site_id": site_id,
            "app": app_of(namespace) if isinstance(namespace, str) else {"app_id": _NAMESPACE, "name": namespace},
            "entity": entity,
            "event": {"kind": kind, "at": body["eventTime"], "metadata": _metadata(body, run, job, parent)},
        }
    )


def _site(scope: Scope, site_id: str | None) -> str:
    wanted = parse_qs(scope["query_string"].decode("latin-1")).get("site", [])
    site = wanted[0] if wanted else site_id
    if not site:
        raise BadParameter("site", "it is needed here: ?site=NAME, or FABMON_SITE_ID where this role runs")
    return site


def _decode(body: bytes) -> Any:
    try:
        return ANY.decode(body)
    except RecursionError:
        raise BadEvent("the JSON is nested too deeply", "too_deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJson(f"the body is no JSON: {error}") from None


def _key(body: dict[str, Any]) -> UUID:
    """The same for the same content, whatever the order of its keys; run, type and time are part of it."""
    return uuid5(_NAMESPACE, _CANONICAL(body).decode())


def _metadata(body: dict[str, Any], run: dict[str, Any], job: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    facets, job_facets = _object(run.get("facets")), _object(job.get("facets"))
    error = _object(facets.get("errorMessage"))
    job_type = _object(job_facets.get("jobType"))
    found = {
        "namespace": job.get("namespace"),
        "producer": body.get("producer"),
        "nominal_start": _object(facets.get("nominalTime")).get("nominalStartTime"),
        "job_type": " ".join(str(job_type[name]) for name in ("integration", "jobType") if name in job_type),
        "parent_run": _object(parent.get("run")).get("runId"),
        "parent_job": _object(parent.get("job")).get("name"),
        "error": error.get("message"),
        "error_at": error.get("stackTrace"),
    }
    metadata: dict[str, Any] = {name: _text(value) for name, value in found.items() if isinstance(value, str) and value}
    for name in ("inputs", "outputs"):
        sets = body.get(name)
        if isinstance(sets, list) and sets:
            names = [f"{one.get('namespace')}/{one.get('name')}" for one in sets[:NAMES_LIMIT] if isinstance(one, dict)]
            metadata[name] = [_text(one, NAME_LIMIT_CHARACTERS) for one in names]
    return metadata


def _text(text: str, limit: int = TEXT_LIMIT_CHARACTERS) -> str:
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
