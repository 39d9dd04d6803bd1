"""Contract section 3 said once more, as plainly as Python can: the whole set of events at once, sorted.

It shares no code with the fold that it checks.
"""

from typing import Any

_RANK = {"started": 0, "progress": 1, "metric": 1, "finished": 2, "error": 2, "canceled": 2}
_MEANS = {"started": "running", "progress": "running", "metric": "running", "finished": "succeeded", "error": "failed"}
_COLUMNS = ("duration_s", "cpu_user_s", "cpu_system_s", "mem_max_mb", "progress")


def reference_row(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the run that *events* (unique keys, `at` as datetime) are all events of."""
    events = sorted(events, key=lambda e: (e["event"]["at"], _RANK[e["event"]["kind"]], e["idempotency_key"]))
    metrics: dict[str, float] = {}
    metadata: dict[str, Any] = {}
    for each in events:
        metrics |= each["event"]["metrics"]
        metadata |= each["event"]["metadata"]
    ends = [e for e in events if _RANK[e["event"]["kind"]] == 2 and _status(e) != "running"]
    starts = [e["event"]["at"] for e in events if e["event"]["kind"] == "started"]
    memory = [e["event"]["metrics"]["mem_max_mb"] for e in events if "mem_max_mb" in e["event"]["metrics"]]
    started_at = min(starts, default=events[0]["event"]["at"])
    end = ends[-1] if ends else None
    ended_at = end["event"]["at"] if end else None
    measured = end["event"]["metrics"].get("duration_s") if end else None
    return {
        "status": _status(end) if end else "running",
        "lost": not ends and "fabmon_lost" in events[-1]["event"]["metadata"],
        "started_at": started_at,
        "ended_at": ended_at,
        "duration_s": measured if measured is not None or not ended_at else (ended_at - started_at).total_seconds(),
        "cpu_user_s": metrics.get("cpu_user_s"),
        "cpu_system_s": metrics.get("cpu_system_s"),
        "progress": metrics.get("progress"),
        "mem_max_mb": max(memory, default=None),
        "metrics": {name: value for name, value in metrics.items() if name not in _COLUMNS},
        "metadata": metadata,
        "job_key": _last(e["entity"]["business_key"] for e in events),
        "app_name": events[-1]["app"]["name"],
        "app_version": _last(e["app"]["version"] for e in events),
        "event_count": len(events),
        "error_count": sum(e["event"]["kind"] == "error" for e in events),
        "last_event_at": events[-1]["event"]["at"],
    }


def _status(event: dict[str, Any]) -> str:
    return str(event["event"].get("status") or _MEANS.get(event["event"]["kind"], "canceled"))


def _last(values: Any) -> Any:
    return ([None] + [value for value in values if value is not None])[-1]
