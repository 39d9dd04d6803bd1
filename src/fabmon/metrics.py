"""Every metric that fabmon exposes is declared here, in the registry of the roles that have it.

Labels have few values: never a job's id or key. Where a name is the user's (an application, a sidecar), the number of them
is bounded by whoever sets it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
EVERYWHERE: Final = REGISTRY
SPOOLED: Final = CollectorRegistry()  # sidecar and local
STORED: Final = CollectorRegistry()  # local
FEDERATED: Final = CollectorRegistry()  # central
_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

REQUESTS: Final = Counter("fabmon_http_requests", "Requests answered, by route and status.", ["route", "status"])
CLOSED_CONNECTIONS: Final = Counter(
    "fabmon_closed_connections", "Connections that broke a limit and were closed, by reason.", ["reason"]
)
REFUSED: Final = Counter("fabmon_refused_requests", "Requests refused for their token, by code.", ["code"])

EVENTS: Final = Counter("fabmon_events", "Events by what became of them.", ["outcome"], registry=SPOOLED)
SPOOL_FSYNC_SECONDS: Final = Histogram(
    "fabmon_spool_fsync_seconds",
    "Time that the disk took to make one group of events durable.",
    buckets=_FAST,
    registry=SPOOLED,
)
SPOOL_OLDEST: Final = Gauge(
    "fabmon_spool_oldest_pending_age_seconds",
    "How long the oldest pending event has waited; 0 when none is.",
    registry=SPOOLED,
)
SPOOL_PENDING: Final = Gauge(
    "fabmon_spool_pending_events", "Events in the spool that are not delivered.", registry=SPOOLED
)
SPOOL_BYTES: Final = Gauge("fabmon_spool_bytes", "Bytes of the spool's segments.", registry=SPOOLED)
SPOOL_MAX_BYTES: Final = Gauge("fabmon_spool_max_bytes", "Most bytes that the spool may take.", registry=SPOOLED)
SPOOL_DISK_FREE: Final = Gauge(
    "fabmon_spool_disk_free_bytes", "Bytes left on the disk under the spool.", registry=SPOOLED
)
DEAD_LETTERS: Final = Gauge("fabmon_dead_letters", "Events that the other side refused for good.", registry=SPOOLED)
UPSTREAM_PAUSED: Final = Gauge(
    "fabmon_upstream_paused",
    "1 for the reason why nothing is sent, else 0: away, refusing or held.",
    ["reason"],
    registry=SPOOLED,
)
UPSTREAM_UP: Final = Gauge("fabmon_upstream_up", "1 while the other side takes events, else 0.", registry=SPOOLED)

COMMIT_SECONDS: Final = Histogram(
    "fabmon_commit_seconds",
    "Time from the beginning to the end of one group commit.",
    buckets=_FAST,
    registry=STORED,
)
FEED_LAG: Final = Gauge(
    "fabmon_feed_lag_seconds", "How far the live stream is behind what is stored; 0 without readers.", registry=STORED
)
STREAM_READERS: Final = Gauge("fabmon_stream_readers", "Readers of the live stream.", registry=STORED)
FEDERATED.register(STREAM_READERS)

SITE_SECONDS: Final = Histogram(
    "fabmon_site_seconds",
    "Time that a site took to answer a question, or to be given up.",
    ["site"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=FEDERATED,
)
SITE_FAILURES: Final = Counter(
    "fabmon_site_failures", "Questions that a site did not answer.", ["site", "status"], registry=FEDERATED
)
SITE_UP: Final = Gauge(
    "fabmon_site_up", "1 while the site says that it is ready, else 0.", ["site"], registry=FEDERATED
)


class SpoolBooks(Collector):
    """The spool's books as counters: rebuilt from disk at start, so they never go back and always balance."""

    def __init__(self) -> None:
        self.accepted = 0
        self.ended: Mapping[str, int] = {}
        self.dropped: Mapping[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("fabmon_spool_accepted", "Events that the spool ever took.", value=self.accepted)
        for name, count in self.ended.items():
            yield CounterMetricFamily(f"fabmon_spool_{name}", f"Spooled events that ended as {name}.", value=count)
        dropped = CounterMetricFamily("fabmon_spool_dropped", "Spooled events given up.", labels=["reason"])
        for reason in ("full", "age", "unknown"):
            dropped.add_metric([reason], self.dropped.get(reason, 0))
        yield dropped


class SiteFigures(Collector):
    """What the site's database says at the moment (query/census.py); nothing of it while the database cannot be asked."""

    def __init__(self) -> None:
        self._families: Sequence[tuple[str, str, Sequence[str], Mapping[tuple[str, ...], float]]] = ()

    def set(
        self,
        jobs: Mapping[tuple[str, ...], float],
        silent: Mapping[tuple[str, ...], float],
        oldest: Mapping[tuple[str, ...], float],
        sidecars: Mapping[tuple[str, ...], tuple[float, float, float]],
    ) -> None:
        """By (app, status), (app,), (app,) and (id, host): up, pending, age of the oldest pending."""
        who = ("sidecar", "host")
        up, pending, age = ({key: values[place] for key, values in sidecars.items()} for place in range(3))
        self._families = (
            ("fabmon_jobs", "Jobs that run now, or ended within the last hour.", ("app", "status"), jobs),
            ("fabmon_silent_jobs", "Running jobs that were silent for FABMON_STALE_AFTER_S.", ("app",), silent),
            ("fabmon_oldest_running_job_age_seconds", "Age of the oldest job that runs.", ("app",), oldest),
            ("fabmon_sidecar_up", "1, or 0 when the sidecar was silent for more than 30 s.", who, up),
            ("fabmon_sidecar_pending_events", "Events that the sidecar holds back.", who, pending),
            ("fabmon_sidecar_oldest_pending_age_seconds", "Age of the oldest of them; 0 without.", who, age),
        )

    def clear(self) -> None:
        self._families = ()

    def collect(self) -> Iterator[Metric]:
        for name, help_text, labels, values in self._families:
            family = GaugeMetricFamily(name, help_text, labels=labels)
            for key, value in values.items():
                family.add_metric(key, value)
            yield family


SPOOL: Final = SpoolBooks()
SPOOLED.register(SPOOL)
SITE: Final = SiteFigures()
STORED.register(SITE)


def exposition(registries: Sequence[CollectorRegistry]) -> bytes:
    """All metrics of a role in Prometheus' text format."""
    return b"".join(generate_latest(registry) for registry in (EVERYWHERE, *registries))
