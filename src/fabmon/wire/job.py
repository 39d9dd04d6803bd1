"""Jobs, subjobs and lists of them as answers show them; for the API's description and for clients."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from fabmon.wire.event import EntityType, Kind, Rejection, Status


class _Run(msgspec.Struct, kw_only=True):
    app_id: UUID
    app_name: str
    app_version: str | None
    site_id: str
    job_key: str | None
    status: Status
    lost: bool
    started_at: datetime
    ended_at: datetime | None
    duration_s: float | None
    cpu_user_s: float | None
    cpu_system_s: float | None
    mem_max_mb: float | None
    progress: float | None
    metadata: dict[str, Any]
    metrics: dict[str, float]
    event_count: int
    error_count: int
    last_event_at: datetime
    inserted_at: datetime
    updated_at: datetime


class Job(_Run, kw_only=True):
    job_id: UUID


class Subjob(_Run, kw_only=True):
    subjob_id: UUID
    job_id: UUID
    sub_key: str | None


class _Page(msgspec.Struct, kw_only=True):
    count: int
    duration_s: float
    next_cursor: str | None = None
    complete_until: datetime | None = None


class Jobs(_Page, kw_only=True):
    """`total` and `total_exact` come with `count=true`."""

    items: list[Job]
    total: int | None = None
    total_exact: bool | None = None


class Subjobs(_Page, kw_only=True):
    items: list[Subjob]
    total: int | None = None
    total_exact: bool | None = None


class RunEvent(msgspec.Struct, kw_only=True):
    """An event of a run, as /v1/jobs/{id}/events lists it."""

    idempotency_key: UUID
    at: datetime
    kind: Kind
    status: Status
    entity_type: EntityType
    entity_id: UUID
    parent_id: UUID | None
    app_id: UUID
    app_name: str
    app_version: str | None
    site_id: str
    job_key: str | None
    sub_key: str | None
    metrics: dict[str, float]
    metadata: dict[str, Any]
    stored_at: datetime


class RunEvents(_Page, kw_only=True):
    items: list[RunEvent]


class Items(msgspec.Struct, kw_only=True):
    """Figures: applications, buckets, sidecars."""

    items: list[dict[str, Any]]
    count: int


class Taken(msgspec.Struct, kw_only=True, omit_defaults=True):
    ok: bool
    duplicate: bool = False


class TakenBySidecar(msgspec.Struct, kw_only=True):
    ok: bool
    forwarded: int
    spooled: int
    rejected: list[Rejection]


class TakenByLocal(msgspec.Struct, kw_only=True):
    ok: bool
    stored: int
    duplicates: int
    spooled: int
    rejected: list[Rejection]
