"""What each route is for, with its parameters and types: the source of /openapi.json on every role."""

from typing import Final

from fabmon.httpd.openapi import BOOLEAN, STRING, TIME, UUID, Doc, Param
from fabmon.query.params import MOST_ROWS, TIME_FIELDS
from fabmon.roles.doors import EACH, EVERYWHERE, ONE_EVENT, OTHER_DOORS, REFUSALS, one_of
from fabmon.store.selection import SORTABLE
from fabmon.wire.contact import Contact
from fabmon.wire.event import STATUS_OF_KIND, STATUSES, Event
from fabmon.wire.job import (
    Items,
    Job,
    Jobs,
    RunEvents,
    Subjob,
    Subjobs,
    TakenByLocal,
)

_LIMIT: Final = Param("limit", "Most rows on the page.", {"type": "integer", "minimum": 1, "maximum": MOST_ROWS})
_CURSOR: Final = Param("cursor", "Where the page begins: `next_cursor` of the page before, with the same question.")
_ID: Final = Param("id", "The run's id.", UUID)
_WINDOW: Final = (
    Param("from", "From this time on; without an offset it is UTC.", TIME),
    Param("to", "Before this time.", TIME),
)
_LIST: Final = (
    *_WINDOW,
    Param("time_field", "Which time the window means.", one_of(*TIME_FIELDS)),
    Param("status", f"A comma list of {', '.join(STATUSES)}; `!` before it excludes."),
    Param("app_name", "Part of the application's name, whatever its case; `!` excludes."),
    Param("app_id", "The application; `!` excludes."),
    Param("site_id", "The site; `!` excludes."),
    Param("key", "The exact job_key or sub_key; `!` excludes."),
    Param("key_prefix", "How job_key or sub_key begins; `!` excludes."),
    Param("metadata.NAME", "What the metadata has under NAME, which is any name; for several names too; `!` excludes."),
    Param("stale", "Running, and silent for longer than FABMON_STALE_AFTER_S.", BOOLEAN),
    Param(
        "order",
        "A column, `-` before it for descending; what has no value (yet) counts as the greatest.",
        one_of(*SORTABLE, *("-" + name for name in SORTABLE)),
    ),
    Param("count", "Also count all rows, up to 50,000.", BOOLEAN),
    Param("format", "How the answer is written; also by Accept.", one_of("json", "csv", "ndjson")),
    _LIMIT,
    _CURSOR,
)
_STREAM: Final = (
    Param("entity_type", "job or subjob; a comma list."),
    Param("kind", f"A comma list of {', '.join(STATUS_OF_KIND)}."),
    Param("status", f"A comma list of {', '.join(STATUSES)}."),
    Param("app_name", "Part of the application's name."),
    Param("job_id", "One job and its subjobs.", UUID),
    Param("site_id", "A comma list of sites."),
    Param("last_event_id", "Resume behind this id; also by the header Last-Event-ID."),
)
_STATS: Final = (
    *_WINDOW,
    Param("bucket", "The length of a bucket: a number and s, m, h or d."),
    Param("by", "Also part by this.", one_of("status", "app", "site")),
)
_FORMS: Final = ("application/json", "text/csv", "application/x-ndjson")
_QUESTIONS: Final[dict[str, Doc]] = {
    "/v1/jobs": Doc(summary="Jobs.", parameters=_LIST, answer=Jobs, content_types=_FORMS, statuses=(422, 503)),
    "/v1/subjobs": Doc(
        summary="Subjobs.",
        parameters=(*_LIST, Param("job_id", "Of this job; `!` excludes.")),
        answer=Subjobs,
        content_types=_FORMS,
        statuses=(422, 503),
    ),
    "/v1/jobs/{id}": Doc(summary="One job.", parameters=(_ID,), answer=Job, statuses=(404, 422, 503)),
    "/v1/jobs/{id}/events": Doc(
        summary="Its events, in the order of their meaning.",
        parameters=(_ID, _LIMIT, _CURSOR),
        answer=RunEvents,
        statuses=(404, 422, 503),
    ),
    "/v1/jobs/{id}/subjobs": Doc(
        summary="Its subjobs.",
        parameters=(_ID, *_LIST),
        answer=Subjobs,
        content_types=_FORMS,
        statuses=(422, 503),
    ),
    "/v1/subjobs/{id}": Doc(summary="One subjob.", parameters=(_ID,), answer=Subjob, statuses=(404, 422, 503)),
    "/v1/subjobs/{id}/events": Doc(
        summary="Its events.", parameters=(_ID, _LIMIT, _CURSOR), answer=RunEvents, statuses=(404, 422, 503)
    ),
    "/v1/apps": Doc(
        summary="Applications with their versions, statuses and durations.",
        parameters=(Param("from", "With jobs that started since then; default: 30 days.", TIME),),
        answer=Items,
        statuses=(422, 503),
    ),
    "/v1/sidecars": Doc(summary="The site's sidecars and what they hold back.", answer=Items, statuses=(422, 503)),
    "/v1/stats": Doc(summary="Figures by bucket of time.", parameters=_STATS, answer=Items, statuses=(422, 503)),
    "/v1/stream": Doc(
        summary="Events as they are stored, as server-sent events.",
        parameters=_STREAM,
        answer=str,
        content_types=("text/event-stream",),
        statuses=(422, 503),
    ),
}

LOCAL: Final[dict[str, Doc]] = {
    **EVERYWHERE,
    **_QUESTIONS,
    **OTHER_DOORS,
    "/v1/ingest/sidecars/{id}": Doc(
        summary="A sidecar says what it holds back.",
        parameters=(Param("id", "The id of its spool.", UUID),),
        body=Contact,
        success=204,
        statuses=(413, 422, 503),
    ),
    "/v1/ingest/events": ONE_EVENT,
    "/v1/ingest/events:batch": Doc(
        summary=EACH,
        body=list[Event],
        answer=TakenByLocal,
        statuses=REFUSALS,
        judged=(207, 422),
    ),
}

_SITE: Final = (
    Param("site", "A site, a comma list of sites, or `*`.", STRING, required=True),
    Param("require", "Whether all sites must answer.", one_of("any", "all")),
    Param(
        "deadline",
        "How long a site may take, in seconds; of an export, to begin.",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 60},
    ),
)


def _through(path: str, doc: Doc) -> Doc:
    """The same question, asked through central."""
    own = _SITE[:1] if path == "/v1/stream" else _SITE
    return Doc(
        summary=doc.summary,
        parameters=(*own, *doc.parameters),
        answer=doc.answer,
        content_types=doc.content_types,
        statuses=tuple(sorted({*doc.statuses, 404, 502, 504})),
    )


CENTRAL: Final[dict[str, Doc]] = {
    **EVERYWHERE,
    **{path: _through(path, doc) for path, doc in _QUESTIONS.items()},
    "/v1/sites": Doc(summary="The sites that are configured."),
}
