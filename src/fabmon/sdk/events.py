"""From what a job says to an event that every sidecar takes.

A job must not fail, and its report must not be lost, because a value has no JSON. So nothing here raises for a value: what
JSON cannot say becomes its `repr`, what is too long is cut and ends in ` ...`, and a metric that is no finite number is
left out and named in the metadata as `metrics_left_out`.
"""

import os
import time
from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Any, Final
from uuid import UUID

import msgspec

from fabmon.clock import now
from fabmon.errors import BadEvent
from fabmon.wire.codec import ANY, encode
from fabmon.wire.event import METADATA_LIMIT_BYTES, App, Entity, Event, Happening, Kind, Status, read_event

TEXT_LIMIT_CHARACTERS: Final = 500
VALUE_LIMIT_CHARACTERS: Final = 2_000
METRICS_LIMIT: Final = 64
# A longer list is not turned into JSON while the job waits.
ITEMS_LIMIT: Final = 5_000

_random: Final[list[bytes]] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)  # or parent and child would use the same keys


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What a job's thread makes of a call. The rest, as much again, is done by `line` on the emitter's thread."""

    site_id: str
    app: App
    entity: Entity
    happening: Happening

    @property
    def about_bytes(self) -> int:
        """How much it takes while it waits."""
        return 512 + sum(map(len, self.happening.metrics))

    def line(self) -> bytes:
        """The event as JSON, with a new key."""
        return encode(Event(new_key(), self.site_id, self.app, self.entity, self.happening))


def event_of(
    site_id: str,
    app: App,
    entity: Entity,
    kind: Kind,
    at: datetime,
    *,
    status: Status | None = None,
    metrics: Mapping[str, float | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Event:
    """A new event with a key of its own; a metric without a value is left out."""
    known = {name: float(value) for name, value in (metrics or {}).items() if value is not None}
    return Event(new_key(), site_id, app, entity, Happening(kind, at, status, known, dict(metadata or {})))


def new_key() -> UUID:
    """As `wire.plain.new_id`, without a system call for each."""
    try:
        some = _random.pop()
    except IndexError:
        more = os.urandom(4096)
        _random.extend(more[start : start + 10] for start in range(10, len(more) - 9, 10))
        some = more[:10]
    milliseconds, chance = time.time_ns() // 1_000_000, int.from_bytes(some, "big")
    return UUID(int=milliseconds << 80 | 7 << 76 | (chance >> 68) << 64 | 2 << 62 | chance & (1 << 62) - 1)


def check(event: Event) -> None:
    """Raises BadEvent when a sidecar would refuse *event*."""
    try:
        line = encode(event)
    except UnicodeEncodeError:
        raise BadEvent("a value is no valid UTF-8", "not_utf8") from None
    read_event(line, now=now())


def text_of(value: object, limit: int = TEXT_LIMIT_CHARACTERS) -> str:
    """*value* as a text that can be stored: valid UTF-8, no NUL, at most *limit* characters."""
    # A `str` of a class of its own (numpy's) has no JSON; its text has.
    text = value if type(value) is str else str.__str__(value) if isinstance(value, str) else _repr(value)
    if "\0" in text or not text.isascii():
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def numbers_of(values: Mapping[str, object]) -> tuple[dict[str, float], list[str]]:
    """The finite numbers among *values*, whatever type says them (numpy, Decimal); and the names of the others."""
    numbers: dict[str, float] = {}
    left_out: list[str] = []
    for name, value in values.items():
        try:
            number = float(value)  # type: ignore[arg-type]  # the point is to find out
        except Exception:  # noqa: BLE001  (a value's own __float__ may raise anything)
            number = float("nan")
        if not isfinite(number) or isinstance(value, (str, bytes)):
            left_out.append(text_of(name))
        else:
            numbers[text_of(name) or "unnamed"] = number
    return numbers, left_out


def metadata_of(values: Mapping[Any, object]) -> dict[str, Any]:
    """*values* as metadata within its limit; `metadata_cut` names what had to be cut."""
    plain = {text_of(name if isinstance(name, str) else str(name)): _plain(value) for name, value in values.items()}
    sizes = {name: len(name) + len(encode(value)) + 8 for name, value in plain.items()}
    total = sum(sizes.values())
    cut: list[str] = []
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if total <= METADATA_LIMIT_BYTES - 1024:
            break
        total -= sizes[name]
        if len(cut) < 100:
            plain[name] = text_of(plain[name])
            total += len(name) * 6 + len(encode(plain[name])) + 8
            cut.append(name)
        else:
            del plain[name]
    return plain | {"metadata_cut": [name[:80] for name in cut[:5]]} if cut else plain


def _plain(value: object) -> Any:
    """*value* in the types of JSON."""
    if value is None or value is True or value is False:
        return value
    if type(value) is str:
        return text_of(value, METADATA_LIMIT_BYTES)
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else str(value)
    if type(value) is float:
        return value if isfinite(value) else str(value)
    try:
        if hasattr(value, "__len__") and len(value) > ITEMS_LIMIT:
            return f"<{type(value).__name__} of {len(value)} items>"
        line = _ENCODE(value)
        if len(line) > METADATA_LIMIT_BYTES:
            return text_of(line.decode(), VALUE_LIMIT_CHARACTERS)
        plain = ANY.decode(line)
        return _without_nul(plain) if b"\\u0000" in line else plain
    except Exception:  # noqa: BLE001  (also what the value's own code raises; RecursionError for one in itself)
        return text_of(value, VALUE_LIMIT_CHARACTERS)


def _stand_in(value: object) -> object:
    """For what msgspec cannot encode: a number if it is one (numpy), else its repr."""
    if hasattr(value, "__float__"):
        try:
            return float(value)
        except Exception:  # noqa: BLE001, S110  (an array: shown below)
            pass
    return text_of(_repr(value), VALUE_LIMIT_CHARACTERS)


_ENCODE: Final = msgspec.json.Encoder(enc_hook=_stand_in, decimal_format="number").encode


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  (also RecursionError)
        return f"<{type(value).__name__}>"


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(part) for name, part in value.items()}
    return [_without_nul(part) for part in value] if isinstance(value, list) else value
