"""Several sites' answers as one.

Rows are ordered by (value, id) at every site alike, nulls being greater than everything, so one position is enough for
all of them: the next page asks each site for what lies behind the last row of this one, whether it had answered before or
not.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from fabmon.clock import monotonic
from fabmon.peer.client import Answer
from fabmon.query.cursor import write_cursor
from fabmon.query.params import read_limit
from fabmon.store.selection import DEFAULT_LIMIT, SORTABLE

EntityType = Literal["job", "subjob"]
Place = tuple[bool, Any, UUID]
"""Of a row in the order: is its value null, the value, its id. Such tuples sort as PostgreSQL does."""


class Part(msgspec.Struct):
    """A site's answer, or why there is none."""

    status: str
    took_s: float
    answer: Answer | None = None
    error: str = ""
    count: int = 0
    complete_until: datetime | None = None


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next_cursor: str | None = None
    total: int | None = None
    total_exact: bool = True
    complete_until: datetime | None = None


_PAGE: Final = msgspec.json.Decoder(_Page)


def merge_lists(parts: Mapping[str, Part], asked: Sequence[tuple[str, str]], entity_type: EntityType) -> dict[str, Any]:
    """One page of all sites, in the order that was asked for; *parts* learn their counts."""
    begun = monotonic()
    given = dict(asked)
    order = given.get("order", "-started_at")
    limit = read_limit(given.get("limit")) or DEFAULT_LIMIT
    pages = _pages(parts, _places_decoder(entity_type, order.removeprefix("-")))
    rows = [row for page, places in pages.values() for row in zip(places, page.items, strict=True)]
    rows.sort(key=itemgetter(0), reverse=order.startswith("-"))
    end = min(limit, len(rows))
    while end < len(rows) and rows[end][0] == rows[end - 1][0]:
        end += 1  # rows of two sites at the very same place stay on one page: the cursor cannot part them
    more = end < len(rows) or any(page.next_cursor is not None for page, _ in pages.values())
    body: dict[str, Any] = {"items": [item for _, item in rows[:end]], "count": end}
    if any(page.total is not None for page, _ in pages.values()):
        body["total"] = sum(page.total or 0 for page, _ in pages.values())
        body["total_exact"] = len(pages) == len(parts) and all(page.total_exact for page, _ in pages.values())
    body["duration_s"] = round(max((part.took_s for part in parts.values()), default=0) + monotonic() - begun, 6)
    body["next_cursor"] = _cursor(entity_type, rows[end - 1][0], asked) if more and end else None
    return body | _about(parts)


def merge_concatenated(parts: Mapping[str, Part]) -> dict[str, Any]:
    """The items of all sites, each with its site: figures of two sites cannot be made one without their events."""
    items = []
    for site, (page, _) in _pages(parts, None).items():
        items += [{"site_id": site} | msgspec.json.decode(item) for item in page.items]
    took = max((part.took_s for part in parts.values()), default=0)
    return {"items": items, "count": len(items), "duration_s": round(took, 6)} | _about(parts)


def _pages(parts: Mapping[str, Part], places: msgspec.json.Decoder[Any] | None) -> dict[str, tuple[_Page, list[Place]]]:
    """The page of each site that gave one, with the places of its rows when *places* reads them."""
    pages: dict[str, tuple[_Page, list[Place]]] = {}
    for site, part in parts.items():
        if part.answer is None:
            continue
        if part.answer.status != 200:
            part.status, part.error = f"http_{part.answer.status}", _detail(part.answer.body)
            continue
        try:
            page = _PAGE.decode(part.answer.body)
            found = places.decode(part.answer.body).items if places is not None else []
        except (msgspec.DecodeError, UnicodeDecodeError):
            part.status, part.error = "bad_answer", "the answer is no page of a fabmon"
            continue
        pages[site] = page, [(row.value is None, row.value, row.id) for row in found]
        part.count, part.complete_until = len(page.items), page.complete_until
    return pages


def _about(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Who answered, who did not and why, and up to when it is all there."""
    known = [part.complete_until for part in parts.values()]
    return {
        "complete": all(part.status == "ok" for part in parts.values()),
        "complete_until": min((at for at in known if at), default=None) if all(known) else None,
        "sites": {
            site: {
                "status": part.status,
                "took_s": round(part.took_s, 6),
                "count": part.count,
                "complete_until": part.complete_until,
                **({"error": part.error} if part.error else {}),
            }
            for site, part in parts.items()
        },
    }


@cache
def _places_decoder(entity_type: EntityType, column: str) -> msgspec.json.Decoder[Any]:
    """Reads of a page what its rows are sorted by, and nothing else."""
    kinds: dict[str, Any] = {"timestamptz": Annotated[datetime, Meta(tz=True)], "float8": float, "int8": int}
    kind = kinds.get(SORTABLE.get(column, ""), str)
    names = {"value": column, "id": f"{entity_type}_id"}
    row = msgspec.defstruct("Row", [("value", kind | None), ("id", UUID)], rename=names, gc=False)
    return msgspec.json.Decoder(msgspec.defstruct("Rows", [("items", list[row])]))  # type: ignore[valid-type]


def _cursor(entity_type: EntityType, place: Place, asked: Sequence[tuple[str, str]]) -> str:
    """As each site would have written it: the same question, and a position that holds everywhere."""
    is_null, value, row = place
    text = None if is_null else value.isoformat() if isinstance(value, datetime) else str(value)
    return write_cursor(entity_type, (text, str(row)), asked)


def _detail(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return str(said.get("detail", ""))[:500] if isinstance(said, dict) else ""
