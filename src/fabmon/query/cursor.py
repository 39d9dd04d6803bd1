"""Where a next page begins. A cursor holds for the question that gave it, and for no other; it holds no secret."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from fabmon.errors import BadParameter
from fabmon.wire.codec import ANY, encode
from fabmon.wire.event import RANK

_CURSOR_VALUES: Final[dict[str, Callable[[str], object]]] = {
    "timestamptz": datetime.fromisoformat,
    "float8": float,
    "int8": int,
    "text": str,
}


def write_cursor(last: tuple[str | None, str], pairs: Sequence[tuple[str, str]]) -> str:
    """Where the next page begins; it holds only for the same question."""
    return _pack([fingerprint(pairs), *last])


def fingerprint(pairs: Sequence[tuple[str, str]]) -> str:
    """The question without its paging, as a short hash."""
    asked = sorted(pair for pair in pairs if pair[0] not in ("cursor", "limit", "count", "format"))
    return blake2b(encode(asked), digest_size=6).hexdigest()


def read_cursor(cursor: str, asked: str, kind: str) -> tuple[Any, UUID]:
    """The position in *cursor*; raises BadParameter when it is none, or another question's."""
    try:
        mark, value, row = _unpack(cursor)
        position = (None if value is None else _CURSOR_VALUES[kind](value), UUID(row))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not one that we gave
        raise BadParameter("cursor", "not a cursor of this API") from None
    if mark != asked:
        raise BadParameter("cursor", "belongs to another question; filters and order must stay the same")
    return position


def write_event_cursor(run: UUID, at: datetime, kind: str, key: UUID) -> str:
    return _pack([str(run), at, kind, key])


def read_event_cursor(cursor: str, run: UUID) -> tuple[datetime, str, UUID]:
    """The position in *cursor* among the events of *run*; raises BadParameter."""
    try:
        mark, at, kind, key = _unpack(cursor)
        position = (datetime.fromisoformat(at), str(kind), UUID(key))
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not one that we gave
        raise BadParameter("cursor", "not a cursor of this API") from None
    if mark != str(run) or kind not in RANK or position[0].tzinfo is None:
        raise BadParameter("cursor", "belongs to another question")
    return position


def _pack(fields: Sequence[Any]) -> str:
    return urlsafe_b64encode(encode(fields)).decode().rstrip("=")


def _unpack(cursor: str) -> Any:
    return ANY.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
