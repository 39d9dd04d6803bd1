"""Every metric that fabmon exposes is declared here. Labels have few values; never an id, a key or a name of a job."""

from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

REQUESTS: Final = Counter("fabmon_http_requests", "Requests answered, by route and status.", ["route", "status"])
EVENTS: Final = Counter("fabmon_events", "Events by what became of them.", ["outcome"])
COMMIT_SECONDS: Final = Histogram(
    "fabmon_commit_seconds",
    "Time from the beginning to the end of one group commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
SPOOL_PENDING: Final = Gauge("fabmon_spool_pending_events", "Events in the spool that are not delivered.")
SPOOL_BYTES: Final = Gauge("fabmon_spool_bytes", "Bytes of the spool's segments.")
DEAD_LETTERS: Final = Gauge("fabmon_dead_letters", "Events that the other side refused for good.")
UPSTREAM_UP: Final = Gauge("fabmon_upstream_up", "1 while the other side takes events, else 0.")
STREAM_READERS: Final = Gauge("fabmon_stream_readers", "Readers of the live stream.")
SITE_FAILURES: Final = Counter("fabmon_site_failures", "Questions that a site did not answer.", ["site", "status"])


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
