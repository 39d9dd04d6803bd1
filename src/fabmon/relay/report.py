"""What a role with a spool says of it: in /v1/healthz and in /metrics."""

import shutil
from typing import Any

from fabmon import metrics
from fabmon.relay.upstream import PAUSES, Upstream
from fabmon.spool.spool import Spool


async def spool_health(spool: Spool) -> dict[str, Any]:
    """The spool's part of /v1/healthz; `accepted` is the sum of what became of the events and what is pending.

    Raises SpoolFailed when its directory cannot be read.
    """
    await spool.look_at_dead_letters()
    books, age = spool.books, spool.oldest_pending_age()
    return {
        "spool_count": spool.pending,
        "spool_dir": str(spool.directory),
        "spool_bytes": spool.size_bytes,
        "oldest_pending_age_s": None if age is None else round(age, 3),
        "dead_letters": spool.dead_letters,
        "spool": {
            "id": spool.id,
            "accepted": spool.accepted,
            "delivered": books.delivered,
            "pending": spool.pending,
            "dead": books.dead,
            "set_aside": books.set_aside,
            "dropped": books.dropped,
        },
    }


def upstream_health(upstream: Upstream) -> dict[str, Any]:
    return {"url": upstream.name, "state": upstream.state, "paused": upstream.pause, "reason": upstream.why}


def _free_bytes(spool: Spool) -> int:
    try:
        return shutil.disk_usage(spool.directory).free
    except OSError:
        return 0


def refresh_metrics(spool: Spool, upstream: Upstream) -> None:
    """Set what /metrics shows of *spool*; dead letters that a person took out are missing the next time."""
    spool.recount_dead_letters()
    books = spool.books
    metrics.SPOOL.accepted = spool.accepted
    metrics.SPOOL.ended = {"delivered": books.delivered, "dead": books.dead, "set_aside": books.set_aside}
    metrics.SPOOL.dropped = books.dropped
    metrics.SPOOL_PENDING.set(spool.pending)
    metrics.SPOOL_BYTES.set(spool.size_bytes)
    metrics.SPOOL_MAX_BYTES.set(spool.max_bytes)
    metrics.SPOOL_DISK_FREE.set(_free_bytes(spool))
    metrics.SPOOL_OLDEST.set(spool.oldest_pending_age() or 0.0)
    metrics.DEAD_LETTERS.set(spool.dead_letters)
    metrics.UPSTREAM_UP.set(upstream.state == "ok")
    for reason in PAUSES:
        metrics.UPSTREAM_PAUSED.labels(reason).set(upstream.pause == reason)
