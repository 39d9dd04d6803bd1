"""latency: one event to an idle server, from its first byte to the answer, against a bare INSERT … COMMIT of the same row.

The limit is psycopg with a prepared statement, one row and its commit, into the same table: no keys, no fold, no HTTP. Both
take turns, a hundred events each. Wanted: a ratio of at most 3 for p50.
"""

import time

import psycopg
import uvloop

from benchmarks.bench import database, finish, percentile, result, role
from benchmarks.data import events
from benchmarks.load import post_paced
from fabmon.wire.codec import encode
from fabmon.wire.event import Event

EVENTS, ROUNDS = 100, 11
PAUSE_SECONDS = 0.01

INSERT = """
insert into event (
    idempotency_key, site_id, entity_type, entity_id, app_id, app_name, app_version, job_key, kind, at, status,
    metrics, metadata
) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


def main() -> None:
    with database() as url, role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local:
        ours, bare = measure(local.port, url)
    lines = [f"{'':20}{'p50 ms':>9}{'p99 ms':>9}"]
    for name, took in (("fabmon", ours), ("INSERT … COMMIT", bare)):
        lines.append(f"{name:20}{1e3 * percentile(took, 0.5):9.2f}{1e3 * percentile(took, 0.99):9.2f}")
    settings = (
        f"{ROUNDS - 1} interleaved rounds of {EVENTS} events after one to warm up, over one connection, "
        f"one each {PAUSE_SECONDS * 1e3:.0f} ms; TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    found = [
        result(name, 1e3 * percentile(ours, share), 1e3 * percentile(bare, share), "ms")
        for name, share in (("latency", 0.5), ("latency_p99", 0.99))
    ]
    finish(found, settings, "\n".join(lines))


def measure(port: int, url: str) -> tuple[list[float], list[float]]:
    """Seconds of each event, ours and the bare one's."""
    ours: list[float] = []
    bare: list[float] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(ROUNDS):
            bodies = [encode(event) for event in events(EVENTS, seed=2 * number)]
            load = uvloop.run(post_paced(port, "/v1/ingest/events", bodies, 1 / PAUSE_SECONDS, 1))
            rows = [row(event) for event in events(EVENTS, seed=2 * number + 1)]
            took = [_insert(connection, values) for values in rows]
            if number:
                ours += load.latencies
                bare += took
    return ours, bare


def _insert(connection: psycopg.Connection[tuple[object, ...]], values: tuple[object, ...]) -> float:
    time.sleep(PAUSE_SECONDS)
    begun = time.perf_counter()
    connection.execute(INSERT, values, prepare=True)
    return time.perf_counter() - begun


def row(event: Event) -> tuple[object, ...]:
    app, entity, happening = event.app, event.entity, event.event
    said = [encode(value).decode() for value in (happening.metrics, happening.metadata)]
    told = (event.idempotency_key, event.site_id, entity.type, entity.id, app.app_id, app.name, app.version)
    return (*told, entity.business_key, happening.kind, happening.at, happening.meant_status, *said)


if __name__ == "__main__":
    main()
