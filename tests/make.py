"""Builders of events: a valid one, and the parts that a test cares about."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from fabmon.wire.event import Event, read_event

NOON = datetime(2026, 10, 19, 12, 0, tzinfo=UTC)
APP_ID = "7f6a0d0c-55f1-5d0c-9d50-3f6d5fb1a001"


def event_dict(
    kind: str = "started",
    *,
    at: datetime | str | float = NOON,
    run: str | None = None,
    parent: str | None = None,
    status: str | None = None,
    metrics: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    key: str | None = None,
    site: str = "fab1",
    business_key: str | None = "LOT-4711",
    sub_key: str | None = None,
    app_name: str = "recipe-runner",
    version: str | None = "1.0.0",
) -> dict[str, Any]:
    """A valid event as the seed writes it; *at* may be seconds after NOON; with *parent* it is a subjob's."""
    moment = NOON + timedelta(seconds=at) if isinstance(at, int | float) else at
    event: dict[str, Any] = {
        "idempotency_key": key or str(uuid.uuid4()),
        "site_id": site,
        "app": {"app_id": APP_ID, "name": app_name, "version": version},
        "entity": {
            "type": "subjob" if parent else "job",
            "id": run or str(uuid.uuid4()),
            "parent_id": parent,
            "business_key": business_key,
            "sub_key": sub_key,
        },
        "event": {
            "kind": kind,
            "at": moment if isinstance(moment, str) else moment.isoformat(),
            "metrics": metrics or {},
            "metadata": metadata or {},
        },
    }
    if status is not None:
        event["event"]["status"] = status
    return event


def event(kind: str = "started", **parts: Any) -> Event:
    return read_event(event_bytes(kind, **parts), now=NOON + timedelta(days=1))


def event_bytes(kind: str = "started", **parts: Any) -> bytes:
    return json.dumps(event_dict(kind, **parts)).encode()


def life(run: str | None = None, begin: float = 0.0, **parts: Any) -> list[dict[str, Any]]:
    """The events of one run that went well."""
    run = run or str(uuid.uuid4())
    return [
        event_dict("started", run=run, at=begin, metadata={"tool": "ETCH-07"}, **parts),
        event_dict("progress", run=run, at=begin + 1, metrics={"progress": 0.5}, **parts),
        event_dict("metric", run=run, at=begin + 2, metrics={"temperature_c": 61.5, "mem_max_mb": 900.0}, **parts),
        event_dict(
            "finished",
            run=run,
            at=begin + 300,
            metrics={"duration_s": 300.5, "cpu_user_s": 120.3, "cpu_system_s": 10.2, "mem_max_mb": 2048.5},
            **parts,
        ),
    ]
