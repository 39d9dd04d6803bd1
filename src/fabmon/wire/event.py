"""An event, and the rules that it must keep.

`read_event` and `read_batch` are the only way from bytes to events: every role judges by the same rules. The limits are
those of docs/api.md; each broken rule has a stable code, listed in docs/problems.md.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from fabmon.errors import BadEvent, NotAnArray, NotJson, TooLarge
from fabmon.wire.codec import RAWS, encode, holds_more, is_deeper

EVENT_LIMIT_BYTES: Final = 1024 * 1024
BATCH_LIMIT_BYTES: Final = 16 * 1024 * 1024
BATCH_LIMIT_EVENTS: Final = 10_000
METADATA_LIMIT_BYTES: Final = 64 * 1024
DEPTH_LIMIT: Final = 64
AHEAD_LIMIT: Final = timedelta(hours=24)

# In the metadata of a `metric` event: who watched over the run is gone, and nobody knows how it goes on (unsent/lost.py).
LOST: Final = "fabmon_lost"

SITE_ID_PATTERN: Final = r"\A[A-Za-z0-9._-]{1,64}\Z"

Kind = Literal["started", "progress", "metric", "finished", "error", "canceled"]
Status = Literal["running", "succeeded", "failed", "canceled"]
EntityType = Literal["job", "subjob"]
# The pattern is documented here and judged by `_check`: msgspec would call into `re` for each event.
SiteId = Annotated[str, Meta(extra_json_schema={"pattern": SITE_ID_PATTERN})]
Name = Annotated[str, Meta(min_length=1, max_length=500)]
Key = Annotated[str, Meta(max_length=500)]

STATUSES: Final[tuple[Status, ...]] = ("running", "succeeded", "failed", "canceled")
STATUS_OF_KIND: Final[dict[str, Status]] = {
    "started": "running",
    "progress": "running",
    "metric": "running",
    "finished": "succeeded",
    "error": "failed",
    "canceled": "canceled",
}
RANK: Final[dict[str, int]] = {"started": 0, "progress": 1, "metric": 1, "finished": 2, "error": 2, "canceled": 2}


class App(msgspec.Struct, frozen=True, gc=False):
    app_id: UUID
    name: Name
    version: Key | None = None


class Entity(msgspec.Struct, frozen=True, gc=False):
    type: EntityType
    id: UUID
    parent_id: UUID | None = None
    business_key: Key | None = None
    sub_key: Key | None = None


class Happening(msgspec.Struct, frozen=True, gc=False):
    kind: Kind
    at: Annotated[datetime, Meta(tz=True)]
    status: Status | None = None
    metrics: Annotated[dict[Name, float], Meta(max_length=64)] = {}
    metadata: dict[str, Any] = {}

    @property
    def meant_status(self) -> Status:
        """The status that was sent, or the one that the kind implies."""
        return self.status or STATUS_OF_KIND[self.kind]

    @property
    def ends_the_run(self) -> bool:
        return RANK[self.kind] == 2 and self.meant_status != "running"


class Event(msgspec.Struct, frozen=True, gc=False):
    idempotency_key: UUID
    site_id: SiteId
    app: App
    entity: Entity
    event: Happening


class Rejection(msgspec.Struct, frozen=True):
    """Why the event at *index* of its batch was refused."""

    index: int
    code: str
    detail: str


class Batch(msgspec.Struct, frozen=True):
    """Events that passed every rule, the bytes each came as (one line of JSON), and those that did not pass."""

    events: list[Event]
    raws: Sequence[bytes]
    rejected: Sequence[Rejection] = ()


class Receipt(msgspec.Struct):
    """What became of a batch: stored + duplicates + spooled + len(rejected) == the events in it.

    A rejection's index is that of the batch's *events*. Behind a sidecar, stored means stored by the site.
    """

    stored: int = 0
    duplicates: int = 0
    spooled: int = 0
    rejected: list[Rejection] = []


Sink = Callable[[Batch], Awaitable[Receipt]]
"""Takes a batch and returns when every accepted event is durable; raises Unavailable when nothing of it was kept."""

_EVENT = msgspec.json.Decoder(Event)
_EVENTS = msgspec.json.Decoder(list[Event])
_LATEST_YEAR: Final = datetime(9999, 12, 30, tzinfo=UTC)
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_PATH: Final = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_CHOICES: Final = {"event.kind": tuple(STATUS_OF_KIND), "event.status": STATUSES, "entity.type": ("job", "subjob")}
# As numbers, and asked whether before how often: this is done for every event, and five times as fast.
_BRACE, _BRACKET, _BACKSLASH = b"{[\\"
# The shortest event has four objects; each more, `"":{}` and a comma or not, takes five bytes at least.
_SHORTEST: Final = (
    b'{"idempotency_key":"00000000000000000000000000000000","site_id":"-","app":{"app_id":'
    b'"00000000000000000000000000000000","name":"-"},"entity":{"type":"job","id":"00000000000000000000000000000000"},'
    b'"event":{"kind":"error","at":"0001-01-02T00:00:00Z"}}'
)
_SHALLOW_BYTES: Final = len(_SHORTEST) + 5 * (DEPTH_LIMIT - 4)
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def read_event(body: bytes, *, now: datetime, site_id: str | None = None) -> Event:
    """The event in *body*; `site_id`, when given, is the only site that is accepted.

    Raises NotJson, or BadEvent with the code of the first rule that it breaks.
    """
    if len(body) > EVENT_LIMIT_BYTES:  # before it costs many times as much memory
        raise BadEvent(f"an event holds at most {EVENT_LIMIT_BYTES} bytes", "event_too_large")
    try:
        event = _EVENT.decode(body)
    except msgspec.ValidationError as error:
        raise _bad_event(str(error)) from None
    except RecursionError:
        raise BadEvent("the JSON is nested too deeply", "too_deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJson(f"the event is no JSON: {error}") from None
    _check(event, body, now + AHEAD_LIMIT, site_id)
    return event


def read_batch(body: bytes, *, now: datetime, site_id: str | None = None) -> Batch:
    """The events of a JSON array, each judged by itself.

    Raises NotJson, NotAnArray or TooLarge (more than 10,000) for the body as a whole.
    """
    if holds_more(body, BATCH_LIMIT_EVENTS):
        raise TooLarge(f"a batch holds at most {BATCH_LIMIT_EVENTS} events", "too_many_events")
    try:
        raws = list(map(bytes, RAWS.decode(body)))
    except msgspec.ValidationError:
        raise NotAnArray("a batch is a JSON array of events") from None
    except RecursionError:
        raise BadEvent("the JSON is nested too deeply", "too_deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJson(f"the batch is no JSON: {error}") from None
    if len(raws) > BATCH_LIMIT_EVENTS:
        raise TooLarge(f"{len(raws)} events; a batch holds at most {BATCH_LIMIT_EVENTS}", "too_many_events")
    if b"\n" in body or b"\r" in body:
        raws = list(map(as_line, raws))
    try:
        if len(body) > EVENT_LIMIT_BYTES and max(map(len, raws), default=0) > EVENT_LIMIT_BYTES:
            return _judge_each(raws, now, site_id)
        # All at once takes half the time, and nearly every batch is good.
        events = _EVENTS.decode(body)
        latest = now + AHEAD_LIMIT
        for event, raw in zip(events, raws, strict=True):
            _check(event, raw, latest, site_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadEvent):
        return _judge_each(raws, now, site_id)
    return Batch(events, raws)


def _judge_each(raws: Sequence[bytes], now: datetime, site_id: str | None) -> Batch:
    events: list[Event] = []
    kept: list[bytes] = []
    rejected: list[Rejection] = []
    for index, raw in enumerate(raws):
        try:
            events.append(read_event(raw, now=now, site_id=site_id))
            kept.append(raw)
        except (BadEvent, NotJson) as error:
            rejected.append(Rejection(index, error.code, str(error)))
    return Batch(events, kept, rejected)


def reread_event(line: bytes) -> Event:
    """An event that was accepted and acknowledged before: neither the clock nor a changed setting can undo that.

    Raises BadEvent when the bytes are no event at all.
    """
    try:
        return _EVENT.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvent(f"not readable any more: {error}", "unreadable") from None


def as_line(raw: bytes) -> bytes:
    """The same JSON without line breaks, of which a JSON string has none, and without a blank at its end."""
    return (raw.translate(_LINE_BREAKS) if b"\n" in raw or b"\r" in raw else raw).rstrip()


def _check(event: Event, raw: bytes, latest: datetime, site_id: str | None) -> None:
    """The rules that a type cannot say; `event.at` may be *latest* at most."""
    happening, entity = event.event, event.entity
    if event.site_id != site_id:
        if not _is_site_id(event.site_id):
            raise BadEvent("site_id: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", "bad_site_id")
        if site_id is not None:
            raise BadEvent(f"this is site {site_id}; the event is of site {event.site_id}", "wrong_site")
    if entity.type == "subjob" and entity.parent_id is None:
        raise BadEvent("a subjob needs entity.parent_id", "parent_id_required")
    if happening.status is not None:
        _check_status(happening.kind, happening.status)
    if not _EARLIEST <= happening.at <= latest:
        if not _EARLIEST <= happening.at <= _LATEST_YEAR:
            raise BadEvent("event.at lies outside the calendar", "at_out_of_range")
        raise BadEvent("event.at is more than 24 h ahead of this server's clock", "at_too_far_ahead")
    if len(raw) > _SHALLOW_BYTES or _BRACKET in raw:
        _check_size(happening, raw)
    if _BACKSLASH in raw and b"\\u0000" in raw and _has_nul(msgspec.to_builtins(event)):
        raise BadEvent("a string holds the character NUL", "nul_character")


def _check_status(kind: Kind, status: Status) -> None:
    if kind == "finished" and status == "running":
        raise BadEvent("finished cannot have status running", "status_kind_mismatch")
    if kind == "canceled" and status != "canceled":
        raise BadEvent(f"canceled cannot have status {status}", "status_kind_mismatch")


def _check_size(happening: Happening, raw: bytes) -> None:
    if len(raw) > METADATA_LIMIT_BYTES and len(encode(happening.metadata)) > METADATA_LIMIT_BYTES:
        raise BadEvent(f"event.metadata holds at most {METADATA_LIMIT_BYTES} bytes", "metadata_too_large")
    if raw.count(_BRACE) + raw.count(_BRACKET) > DEPTH_LIMIT and is_deeper(raw, DEPTH_LIMIT):
        raise BadEvent(f"the JSON is nested more than {DEPTH_LIMIT} levels deep", "too_deep")


@lru_cache(maxsize=256)
def _is_site_id(text: str) -> bool:
    return re.match(SITE_ID_PATTERN, text) is not None


def _bad_event(message: str) -> BadEvent:
    """msgspec's message, with the code of the field that it names."""
    match = _PATH.match(message)
    path = match["path"] if match else ""
    what = match["what"] if match else message
    if "missing required field" in what:
        where = f"{path}." if path else ""
        return BadEvent(f"{where}{what.rpartition('`')[0].rpartition('`')[2]} is missing", "missing_field")
    detail = f"{path or 'the event'}: {what}"
    if path in _CHOICES:
        detail += f"; it is one of {', '.join(_CHOICES[path])}"
    if "length <=" in what:
        return BadEvent(detail, "too_many_metrics" if path == "event.metrics" else "too_long")
    if not path:
        return BadEvent(detail, "not_an_object")
    field = path.removeprefix("entity.").removeprefix("event.").replace("app.name", "app_name")
    field = field.replace("app.version", "app_version").removeprefix("app.")
    return BadEvent(detail, "bad_" + re.split(r"[.\[]", field)[0])


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_has_nul(part) for part in value)
