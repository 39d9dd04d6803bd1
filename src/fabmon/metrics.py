"""Every metric that fabmon exposes is declared here. Labels have few values; never an id, a key or a name of a job."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class SpoolBooks(Collector):
    """The spool's books as counters: rebuilt from disk at start, so they never go back and always balance."""

    def __init__(self) -> None:
        self.accepted: int | None = None  # None: this role has no spool
        self.ended: Mapping[str, int] = {}
        self.dropped: Mapping[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        if self.accepted is None:
            return
        yield CounterMetricFamily("fabmon_spool_accepted", "Events that the spool ever took.", value=self.accepted)
        for name, count in self.ended.items():
            yield CounterMetricFamily(f"fabmon_spool_{name}", f"Spooled events that ended as {name}.", value=count)
        dropped = CounterMetricFamily("fabmon_spool_dropped", "Spooled events given up.", labels=["reason"])
        for reason in ("full", "age", "unknown"):
            dropped.add_metric([reason], self.dropped.get(reason, 0))
        yield dropped


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

REQUESTS: Final = Counter("fabmon_http_requests", "Requests answered, by route and status.", ["route", "status"])
CLOSED_CONNECTIONS: Final = Counter(
    "fabmon_closed_connections", "Connections that broke a limit and were closed, by reason.", ["reason"]
)
REFUSED: Final = Counter("fabmon_refused_requests", "Requests refused for their token, by code.", ["code"])
EVENTS: Final = Counter("fabmon_events", "Events by what became of them.", ["outcome"])
COMMIT_SECONDS: Final = Histogram(
    "fabmon_commit_seconds",
    "Time from the beginning to the end of one group commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
SPOOL: Final = SpoolBooks()
REGISTRY.register(SPOOL)
SPOOL_FSYNC_SECONDS: Final = Histogram(
    "fabmon_spool_fsync_seconds",
    "Time that the disk took to make one group of events durable.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
SPOOL_OLDEST: Final = Gauge(
    "fabmon_spool_oldest_pending_age_seconds", "How long the oldest pending event has waited; 0 when none is."
)
SPOOL_PENDING: Final = Gauge("fabmon_spool_pending_events", "Events in the spool that are not delivered.")
SPOOL_BYTES: Final = Gauge("fabmon_spool_bytes", "Bytes of the spool's segments.")
DEAD_LETTERS: Final = Gauge("fabmon_dead_letters", "Events that the other side refused for good.")
UPSTREAM_PAUSED: Final = Gauge(
    "fabmon_upstream_paused", "1 for the reason why nothing is sent, else 0: away, refusing or held.", ["reason"]
)
UPSTREAM_UP: Final = Gauge("fabmon_upstream_up", "1 while the other side takes events, else 0.")
STREAM_READERS: Final = Gauge("fabmon_stream_readers", "Readers of the live stream.")
SITE_FAILURES: Final = Counter("fabmon_site_failures", "Questions that a site did not answer.", ["site", "status"])


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
