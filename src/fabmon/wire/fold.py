"""The meaning of a set of events: what the row of a job or subjob is.

Every event has a position, (at, rank, idempotency key), and positions order all events of a run. Each part of the row is
then a merge that does not care about order, grouping or repetition: an earliest, a latest, a maximum, a count of distinct
events, or "the value at the highest position". So two states of one run merge into the state of both their events, and

    events of one batch --fold()--> one RunState per run --merge_runs (sql/routines/merge.sql)--> the row

gives the same row whatever the batches were. The merge in SQL treats each field as its comment here says.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from fabmon.wire.event import RANK, Entity, Event

_YEAR_ONE: Final = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# Metrics that are columns by themselves: the first two have merges of their own, the others are only shown apart.
DURATION: Final = "duration_s"
MEMORY: Final = "mem_max_mb"


class RunState(msgspec.Struct, omit_defaults=True, gc=False):
    """What some of a run's events say about it. A `_pos` is the position of the event that a value comes from.

    What has its default is left out of the JSON: half of its size, and what PostgreSQL needs to read it.
    """

    # which run
    site_id: str
    entity_type: str
    id: UUID
    # of the last event
    last_pos: str
    app_id: UUID
    app_name: str
    parent_id: UUID | None
    # of the last event that carries it
    app_version: str | None = None
    app_version_pos: str | None = None
    job_key: str | None = None
    job_key_pos: str | None = None
    sub_key: str | None = None
    sub_key_pos: str | None = None
    metrics: dict[str, float] = {}
    metrics_pos: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    metadata_pos: dict[str, str] = {}
    # of the last event that ends the run
    end_pos: str | None = None
    end_status: str | None = None
    ended_at: datetime | None = None
    end_duration_s: float | None = None
    # earliest, latest, maximum, counts
    began_at: datetime | None = None
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None
    mem_max_mb: float | None = None
    event_count: int = 0
    error_count: int = 0


def positions_of(events: Iterable[Event]) -> list[str]:
    """Each event's place in the order of its run's events, as text that sorts (in bytes) like it.

    Microseconds since the year 1, the rank, the key in hexadecimal: all of fixed width.
    """
    return [
        "%018d%d%032x"  # noqa: UP031  (a quarter faster than an f-string)
        % ((event.event.at - _YEAR_ONE) // _MICROSECOND, RANK[event.event.kind], event.idempotency_key.int)
        for event in events
    ]


def key_of(position: str) -> str:
    """The idempotency key of the event at *position*, 32 hexadecimal digits."""
    return position[19:]


def fold(events: Iterable[Event], positions: Iterable[str]) -> list[RunState]:
    """The state of every run that *events* speak of; *positions* are theirs.

    Each event is taken as new, so repeats must be gone before.
    """
    states: dict[tuple[str, str, int], RunState] = {}
    for event, pos in zip(events, positions, strict=True):
        entity = event.entity
        name = (event.site_id, entity.type, entity.id.int)
        state = states.get(name)
        if state is None:
            app = event.app
            state = RunState(event.site_id, entity.type, entity.id, pos, app.app_id, app.name, entity.parent_id)
            states[name] = state
        _add(state, event, entity, pos)
    return list(states.values())


def _add(state: RunState, event: Event, entity: Entity, pos: str) -> None:
    app, happening = event.app, event.event
    if pos > state.last_pos:
        state.last_pos, state.app_id, state.app_name, state.parent_id = pos, app.app_id, app.name, entity.parent_id
    if app.version is not None and pos > (state.app_version_pos or ""):
        state.app_version, state.app_version_pos = app.version, pos
    if entity.business_key is not None and pos > (state.job_key_pos or ""):
        state.job_key, state.job_key_pos = entity.business_key, pos
    if entity.sub_key is not None and pos > (state.sub_key_pos or ""):
        state.sub_key, state.sub_key_pos = entity.sub_key, pos

    for name, value in happening.metrics.items():
        if name == MEMORY:
            state.mem_max_mb = value if state.mem_max_mb is None else max(state.mem_max_mb, value)
        elif name != DURATION and pos > state.metrics_pos.get(name, ""):
            state.metrics[name], state.metrics_pos[name] = value, pos
    for name, fact in happening.metadata.items():
        if pos > state.metadata_pos.get(name, ""):
            state.metadata[name], state.metadata_pos[name] = fact, pos

    at = happening.at
    if happening.ends_the_run and pos > (state.end_pos or ""):
        state.end_pos, state.end_status, state.ended_at = pos, happening.meant_status, at
        state.end_duration_s = happening.metrics.get(DURATION)
    if happening.kind == "started" and (state.began_at is None or at < state.began_at):
        state.began_at = at
    if state.first_event_at is None or at < state.first_event_at:
        state.first_event_at = at
    if state.last_event_at is None or at > state.last_event_at:
        state.last_event_at = at
    state.event_count += 1
    state.error_count += happening.kind == "error"
