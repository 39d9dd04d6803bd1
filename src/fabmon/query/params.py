"""From a query string to a Selection. Every parameter is known, given once, and checked; a bad one is named."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from fabmon.errors import BadParameter
from fabmon.httpd.asked import read_once
from fabmon.query.cursor import read_cursor
from fabmon.store.selection import APP_NAME_LIKE, SORTABLE, Condition, Selection, is_one_of
from fabmon.wire.codec import ANY, encode
from fabmon.wire.event import SITE_ID_PATTERN, STATUSES
from fabmon.wire.ids import read_uuid

MOST_ROWS: Final = 10_000
FORMS: Final[dict[str, Literal["json", "csv", "ndjson"]]] = {
    "application/json": "json",
    "text/csv": "csv",
    "application/x-ndjson": "ndjson",
}
TIME_FIELDS: Final = ("started_at", "ended_at", "inserted_at", "active")
# An unescaped + in a URL arrives as a space.
_LOST_PLUS: Final = re.compile(r" (?=\d\d:?\d\d$)")

Parsed = Callable[[str, str], Condition]


def read_selection(
    entity_type: Literal["job", "subjob"], pairs: Sequence[tuple[str, str]], stale_after_seconds: float
) -> Selection:
    """The selection that the query string asks for; raises BadParameter that names what is wrong."""
    given = read_once(pairs)
    cursor = given.pop("cursor", None)
    for name in ("count", "format"):
        given.pop(name, None)
    limit = read_limit(given.pop("limit", None))
    order = given.pop("order", "-started_at")
    if order.removeprefix("-") not in SORTABLE:
        raise BadParameter("order", f"one of {', '.join(SORTABLE)}, with - before it for descending")
    conditions = _window(given, order.removeprefix("-"))
    for name, value in given.items():
        conditions.append(_condition(entity_type, name, value, stale_after_seconds))
    return Selection(
        entity_type=entity_type,
        conditions=tuple(conditions),
        order=order.removeprefix("-"),
        descending=order.startswith("-"),
        after=None if cursor is None else read_cursor(cursor, entity_type, pairs, order.removeprefix("-")),
        limit=limit,
    )


def read_flag(pairs: Sequence[tuple[str, str]], name: str) -> bool:
    value = dict(pairs).get(name, "false")
    if value not in ("true", "false"):
        raise BadParameter(name, "true or false")
    return value == "true"


def read_form(pairs: Sequence[tuple[str, str]], accept: str) -> Literal["json", "csv", "ndjson"]:
    """How the answer is written: `format=` goes before the Accept header, and JSON is meant where neither says."""
    form = dict(pairs).get("format")
    if form is None:
        return max(_accepted(accept), default=(0.0, 0, "json"))[2]
    if form not in ("json", "csv", "ndjson"):
        raise BadParameter("format", "one of json, csv, ndjson")
    return form  # type: ignore[return-value]  # one of the three, by the line above


def _accepted(accept: str) -> list[tuple[float, int, Literal["json", "csv", "ndjson"]]]:
    """The forms that an Accept header names, with their weight; of equal ones the first counts most."""
    found: list[tuple[float, int, Literal["json", "csv", "ndjson"]]] = []
    for place, part in enumerate(accept.split(",")):
        kind, _, rest = part.partition(";")
        weight = re.search(r"\bq=([01](?:\.[0-9]{0,3})?)", rest)
        if kind.strip() in FORMS:
            found.append((float(weight[1]) if weight else 1.0, -place, FORMS[kind.strip()]))
    return found


def read_time(name: str, value: str) -> datetime:
    """ISO 8601; without an offset it is UTC."""
    try:
        at = datetime.fromisoformat(_LOST_PLUS.sub("+", value))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadParameter(name, f"{value[:40]!r} is no ISO 8601 time, such as 2025-10-19T12:00:00Z") from None


def read_limit(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and 1 <= int(value) <= MOST_ROWS):
        raise BadParameter("limit", f"a whole number from 1 to {MOST_ROWS}")
    return int(value)


def _window(given: dict[str, str], order: str) -> list[Condition]:
    field = given.pop("time_field", "started_at")
    if field not in TIME_FIELDS:
        raise BadParameter("time_field", f"one of {', '.join(TIME_FIELDS)}")
    begin = read_time("from", given.pop("from")) if "from" in given else None
    end = read_time("to", given.pop("to")) if "to" in given else None
    if begin is not None and end is not None and begin > end:
        raise BadParameter("from", "lies after `to`")
    narrows = field not in (order, "active")
    conditions = []
    if begin is not None:
        text = "(ended_at is null or ended_at >= %(begin)s)" if field == "active" else f"{field} >= %(begin)s"
        conditions.append(Condition(text, {"begin": begin}, narrows=narrows))
    if end is not None:
        text = "started_at < %(end)s" if field == "active" else f"{field} < %(end)s"
        conditions.append(Condition(text, {"end": end}, narrows=narrows))
    return conditions


def _condition(entity_type: str, name: str, value: str, stale_after_seconds: float) -> Condition:
    if name == "stale":
        return _stale(value, stale_after_seconds)
    if name == "job_id" and entity_type != "subjob":
        raise BadParameter(name, "asks for the subjobs of one job; use /v1/jobs/{id} for the job itself")
    negated, plain = value.startswith("!"), value.removeprefix("!")
    if name.startswith("metadata."):
        return _metadata(name.removeprefix("metadata."), plain, negated)
    if name == "status":
        return _status(plain, negated)
    if name in ("key", "key_prefix"):
        return _key(entity_type, name, plain, negated)
    make = _FILTERS.get(name)
    if make is None:
        raise BadParameter(name[:60], "unknown parameter")
    text, values = make(name, plain)
    return Condition(text, values, negated)


def _metadata(field: str, value: str, negated: bool) -> Condition:
    """The value as text; what spells a number, a boolean or null also means that. An index answers containment."""
    meant = [value]
    parsed = _scalar(value)
    texts = [encode({field: each}).decode() for each in (*meant, *parsed)]
    names = [f"contained{number}" for number in range(len(texts))]
    text = " or ".join(f"metadata @> %({name})s::jsonb" for name in names)
    return Condition(text, dict(zip(names, texts, strict=True)), negated)


def _scalar(value: str) -> list[Any]:
    try:
        parsed = ANY.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [parsed] if parsed is None or isinstance(parsed, bool | int | float) else []


def _key(entity_type: str, name: str, value: str, negated: bool) -> Condition:
    """A job has no sub_key: asking for it as well would cost the index."""
    columns = ("job_key", "sub_key") if entity_type == "subjob" else ("job_key",)
    operator = "=" if name == "key" else "^@"
    text = " or ".join(f"{column} {operator} %(key)s" for column in columns)
    return Condition(text, {"key": value}, negated, narrows=name == "key_prefix")


def _status(value: str, negated: bool) -> Condition:
    """What is excluded is asked for by the others: an index finds the few that are left."""
    named = value.split(",")
    if not set(named) <= set(STATUSES):
        raise BadParameter("status", f"a comma list of {', '.join(STATUSES)}")
    return is_one_of("status", [status for status in STATUSES if (status in named) is not negated])


def _contains(name: str, value: str) -> tuple[str, Mapping[str, Any]]:
    plain = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return APP_NAME_LIKE, {"pattern": f"%{plain}%"}


def _site(name: str, value: str) -> tuple[str, Mapping[str, Any]]:
    if not re.match(SITE_ID_PATTERN, value):
        raise BadParameter(name, "1 to 64 letters, digits, dots, dashes or underscores")
    return "site_id = %(site)s", {"site": value}


def _uuid(column: str) -> Callable[[str, str], tuple[str, Mapping[str, Any]]]:
    def make(name: str, value: str) -> tuple[str, Mapping[str, Any]]:
        return f"{column} = %(uuid)s", {"uuid": read_uuid(name, value)}

    return make


def _stale(value: str, after_seconds: float) -> Condition:
    if value not in ("true", "false"):
        raise BadParameter("stale", "true or false")
    text = "status = 'running' and last_event_at < now() - make_interval(secs => %(seconds)s)"
    return Condition(text, {"seconds": after_seconds}, negated=value == "false")


_FILTERS: Final[dict[str, Callable[[str, str], tuple[str, Any]]]] = {
    "app_name": _contains,
    "site_id": _site,
    "app_id": _uuid("app_id"),
    "job_id": _uuid("parent_id"),
}
