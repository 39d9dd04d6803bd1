"""Several sites' answers as one.

Rows are ordered by (value, id) at every site alike, nulls being greater than everything, so one position is enough for
all of them: the next page asks each site for what lies behind the last row of this one, whether it had answered before or
not.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from fabmon.clock import monotonic
from fabmon.peer.client import Answer
from fabmon.query.cursor import write_cursor
from fabmon.query.params import read_limit
from fabmon.store.selection import DEFAULT_LIMIT, SORTABLE

Row = tuple[Any, msgspec.Raw]  # its place in the order, and its JSON


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


def merge_lists(
    parts: Mapping[str, Part], asked: Sequence[tuple[str, str]], entity_type: Literal["job", "subjob"]
) -> dict[str, Any]:
    """One page of all sites, in the order that was asked for; *parts* learn their counts."""
    begun = monotonic()
    given = dict(asked)
    order = given.get("order", "-started_at")
    limit = read_limit(given.get("limit")) or DEFAULT_LIMIT
    column, descending = order.removeprefix("-"), order.startswith("-")
    pages = _pages(parts)
    if column not in SORTABLE:
        pages = {}  # every site has refused it, and says so better
    key = _key(entity_type, column)
    rows: list[Iterator[Row]] = [((key(item), item) for item in page.items) for page in pages.values()]
    merged = heapq.merge(*rows, key=lambda row: row[0], reverse=descending)
    taken: list[Row] = []
    more = any(page.next_cursor is not None for page in pages.values())
    for row in merged:
        # Rows of two sites at the very same place stay on one page: the cursor cannot part them.
        if len(taken) >= limit and row[0] != taken[-1][0]:
            more = True
            break
        taken.append(row)
    body: dict[str, Any] = {"items": [item for _, item in taken], "count": len(taken)}
    if any(page.total is not None for page in pages.values()):
        body["total"] = sum(page.total or 0 for page in pages.values())
        body["total_exact"] = len(pages) == len(parts) and all(page.total_exact for page in pages.values())
    body["duration_s"] = round(max((part.took_s for part in parts.values()), default=0) + monotonic() - begun, 6)
    body["next_cursor"] = _cursor(taken[-1][0], asked) if more and taken else None
    return body | _about(parts)


def merge_concatenated(parts: Mapping[str, Part]) -> dict[str, Any]:
    """The items of all sites, each with its site: figures of two sites cannot be made one without their events."""
    items = []
    for site, page in _pages(parts).items():
        items += [{"site_id": site} | msgspec.json.decode(item) for item in page.items]
    took = max((part.took_s for part in parts.values()), default=0)
    return {"items": items, "count": len(items), "duration_s": round(took, 6)} | _about(parts)


def _pages(parts: Mapping[str, Part]) -> dict[str, _Page]:
    pages: dict[str, _Page] = {}
    for site, part in parts.items():
        if part.answer is None:
            continue
        if part.answer.status != 200:
            part.status, part.error = f"http_{part.answer.status}", _detail(part.answer.body)
            continue
        try:
            pages[site] = _PAGE.decode(part.answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            part.status, part.error = "bad_answer", "the answer is no page of a fabmon"
            continue
        part.count, part.complete_until = len(pages[site].items), pages[site].complete_until
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
def _key(entity_type: str, column: str) -> Callable[[msgspec.Raw], Any]:
    """Reads the place of a row: (is it null, value, id), which sorts as PostgreSQL does."""
    kind: Any = {"timestamptz": datetime, "float8": float, "int8": int}.get(SORTABLE.get(column, ""), str)
    fields = [(f"{entity_type}_id", UUID), (column, kind | None)]
    decoder = msgspec.json.Decoder(msgspec.defstruct(f"_{entity_type}_{column}", fields))

    def read(item: msgspec.Raw) -> Any:
        found = decoder.decode(item)
        value = getattr(found, column)
        return (value is None, _EMPTY[kind] if value is None else value, getattr(found, f"{entity_type}_id"))

    return read


_EMPTY: Final[dict[Any, Any]] = {datetime: datetime.min, float: 0.0, int: 0, str: ""}


def _cursor(place: tuple[bool, Any, UUID], asked: Sequence[tuple[str, str]]) -> str:
    """As each site would have written it: the same question, and a position that holds everywhere."""
    is_null, value, row = place
    text = None if is_null else value.isoformat() if isinstance(value, datetime) else str(value)
    return write_cursor((text, str(row)), asked)


def _detail(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return str(said.get("detail", ""))[:500] if isinstance(said, dict) else ""
