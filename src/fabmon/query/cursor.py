"""Where a next page begins. A cursor holds for the question that gave it, and for no other; it holds no secret."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from math import isfinite
from typing import Any, Final
from uuid import UUID

from fabmon.errors import BadParameter
from fabmon.store.selection import NEVER_NULL, SORTABLE
from fabmon.wire.codec import ANY, encode
from fabmon.wire.event import RANK


def write_cursor(entity_type: str, last: tuple[str | None, str], pairs: Sequence[tuple[str, str]]) -> str:
    """Where the next page begins; it holds only for the same question."""
    return _pack([_fingerprint(entity_type, pairs), *last])


def read_cursor(cursor: str, entity_type: str, pairs: Sequence[tuple[str, str]], order: str) -> tuple[Any, UUID]:
    """The position in *cursor*; raises BadParameter when it is none, or another question's."""
    try:
        mark, value, row = _unpack(cursor)
        position = (_value(value, order), UUID(row))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not one that we gave
        raise not_a_cursor() from None
    if mark != _fingerprint(entity_type, pairs):
        raise BadParameter("cursor", "belongs to another question; filters and order must stay the same")
    return position


def not_a_cursor() -> BadParameter:
    return BadParameter("cursor", "not a cursor of this API")


def write_event_cursor(run: UUID, at: datetime, kind: str, key: UUID) -> str:
    return _pack([str(run), at, kind, key])


def read_event_cursor(cursor: str, run: UUID) -> tuple[datetime, str, UUID]:
    """The position in *cursor* among the events of *run*; raises BadParameter."""
    try:
        mark, at, kind, key = _unpack(cursor)
        position = (datetime.fromisoformat(at), str(kind), UUID(key))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not one that we gave
        raise not_a_cursor() from None
    if mark != str(run) or kind not in RANK or position[0].tzinfo is None:
        raise BadParameter("cursor", "belongs to another question")
    return position


def _fingerprint(entity_type: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The question without its paging, as a short hash."""
    asked = sorted(pair for pair in pairs if pair[0] not in ("cursor", "limit", "count", "format"))
    return blake2b(encode([entity_type, asked]), digest_size=6).hexdigest()


def _value(text: object, order: str) -> object:
    """The sort value of a row; raises ValueError for what no row can have."""
    if text is None and order not in NEVER_NULL:
        return None
    if not isinstance(text, str):
        raise ValueError(order)
    value = _READERS[SORTABLE[order]](text)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(text)
    if (isinstance(value, int) and abs(value) >= 2**63) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError(text)
    if isinstance(value, str) and "\0" in value:
        raise ValueError(text)
    return value


_READERS: Final[dict[str, Callable[[str], object]]] = {
    "timestamptz": datetime.fromisoformat,
    "float8": float,
    "int8": int,
    "text": str,
}


def _pack(fields: Sequence[Any]) -> str:
    return urlsafe_b64encode(encode(fields)).decode().rstrip("=")


def _unpack(cursor: str) -> Any:
    return ANY.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
