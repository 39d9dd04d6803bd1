"""The rows of a batch in `event`, as text for COPY and as JSON for one statement.

For COPY one column at a time, because that is twice as fast as row by row.

Columns of one type are encoded by one call where the type allows it: a hundred moments in JSON cost what one `isoformat`
does.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from fabmon.wire.codec import encode
from fabmon.wire.event import Event
from fabmon.wire.fold import key_of

_NULL: Final = "\\N"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_rows(events: Sequence[Event], positions: Iterable[str]) -> str:
    """The events as lines of COPY's text format, in the columns of `copy_events`; *positions* are theirs."""
    apps = [event.app for event in events]
    entities = [event.entity for event in events]
    happenings = [event.event for event in events]
    columns: tuple[Iterable[str], ...] = (
        map(key_of, positions),
        [event.site_id for event in events],
        [entity.type for entity in entities],
        _all_plain([entity.id for entity in entities]),
        [_NULL if entity.parent_id is None else entity.parent_id.hex for entity in entities],
        _all_plain([app.app_id for app in apps]),
        [_text(app.name) for app in apps],
        [_text(app.version) for app in apps],
        [_text(entity.business_key) for entity in entities],
        [_text(entity.sub_key) for entity in entities],
        [happening.kind for happening in happenings],
        _all_plain([happening.at for happening in happenings]),
        [happening.meant_status for happening in happenings],
        [_json(happening.metrics) if happening.metrics else "{}" for happening in happenings],
        [_json(happening.metadata) if happening.metadata else "{}" for happening in happenings],
    )
    return "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"


def json_rows(events: Sequence[Event]) -> str:
    """The same rows as a JSON array of objects."""
    return encode([_json_row(event) for event in events]).decode()


def _json_row(event: Event) -> dict[str, Any]:
    app, entity, happening = event.app, event.entity, event.event
    return {
        "idempotency_key": event.idempotency_key,
        "site_id": event.site_id,
        "entity_type": entity.type,
        "entity_id": entity.id,
        "parent_id": entity.parent_id,
        "app_id": app.app_id,
        "app_name": app.name,
        "app_version": app.version,
        "job_key": entity.business_key,
        "sub_key": entity.sub_key,
        "kind": happening.kind,
        "at": happening.at,
        "status": happening.meant_status,
        "metrics": happening.metrics,
        "metadata": happening.metadata,
    }


def _all_plain(values: Sequence[UUID] | Sequence[datetime]) -> Sequence[str]:
    """Each as in JSON; neither UUIDs nor moments hold a quote."""
    return encode(values).decode()[2:-2].split('","')


@lru_cache(maxsize=4096)  # names, versions and keys come again and again
def _text(value: str | None) -> str:
    if value is None:
        return _NULL
    if value.isprintable() and "\\" not in value:
        return value
    return value.translate(_ESCAPES)


def _json(value: dict[str, Any]) -> str:
    return encode(value).decode().replace("\\", "\\\\")
