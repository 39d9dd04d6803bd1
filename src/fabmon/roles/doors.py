"""What the front doors are for: the routes of the sidecar, and of every role.

Apart from described.py, which knows what can be asked: a sidecar needs no database driver in its memory.
"""

from collections.abc import Mapping
from typing import Any, Final

from fabmon.httpd.openapi import TIME, Doc, Param
from fabmon.wire.event import Event
from fabmon.wire.job import Taken, TakenBySidecar


def one_of(*names: str) -> Mapping[str, Any]:
    return {"type": "string", "enum": list(names)}


REFUSALS: Final = (400, 413, 415, 422, 503, 507)

EVERYWHERE: Final[dict[str, Doc]] = {
    "/v1/healthz": Doc(summary="Health of this role and of what it stands on.", statuses=(503,)),
    "/livez": Doc(summary="The process answers."),
    "/readyz": Doc(summary="Every part is ready; else 503 and the names of those that are not.", statuses=(503,)),
    "/metrics": Doc(summary="Metrics in Prometheus' text format.", answer=str, content_types=("text/plain",)),
    "/openapi.json": Doc(summary="This description."),
}
EACH: Final = "Take events; each is judged by itself."
ONE_EVENT: Final = Doc(summary="Take one event.", body=Event, answer=Taken, statuses=REFUSALS)

# Doors for what speaks another language; they take what their own documents say (docs/reporting.md).
OTHER_DOORS: Final[dict[str, Doc]] = {
    "/v1/ping/{app}/{key:path}/{state}": Doc(
        summary="Report a run's state without JSON.",
        parameters=(
            Param("app", "The application's name."),
            Param("key", "The job's key."),
            Param("state", "What happened.", one_of("started", "progress", "succeeded", "failed", "canceled")),
            Param("rid", "Tells runs of the same key apart."),
            Param("at", "When it happened.", TIME),
            Param("progress", "How far it is, as a fraction.", {"type": "number"}),
            Param("site", "The site, where the role serves several."),
        ),
        answer=Taken,
        statuses=(404, 422, 503, 507),
    ),
    "/api/v1/lineage": Doc(
        summary="Take one OpenLineage event.", body=dict[str, Any], answer=dict[str, Any], statuses=REFUSALS
    ),
    "/api/v1/lineage/batch": Doc(
        summary="Take OpenLineage events; each is judged by itself.",
        body=list[dict[str, Any]],
        answer=dict[str, Any],
        statuses=REFUSALS,
        judged=(207, 422),
    ),
}

SIDECAR: Final[dict[str, Doc]] = {
    **EVERYWHERE,
    **OTHER_DOORS,
    "/v1/ingest/events": ONE_EVENT,
    "/v1/ingest/events:batch": Doc(
        summary=EACH,
        body=list[Event],
        answer=TakenBySidecar,
        statuses=REFUSALS,
        judged=(207, 422),
    ),
}
