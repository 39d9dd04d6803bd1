"""commit: HTTP batches of 1,000 over 4 connections, stored and folded, against plain COPY of the same rows.

The limit is COPY of every row that a batch leaves behind, encoded beforehand, a transaction for each batch, without HTTP,
checks and fold: `event_key` (the unique index that a hypertable cannot have), `event` and `run`, into those tables with
their indexes, by one connection (`commit`) and by two (`commit_against_two`). Shown beside it: COPY of `event` alone.

Rounds of all are interleaved; the first of each warms up and is left out.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import msgspec
import psycopg
import uvloop

from benchmarks.bench import database, finish, median, percentile, result, role, table_of
from benchmarks.data import batches, events
from benchmarks.load import post_all
from fabmon.store.named import query
from fabmon.store.rows import copy_rows
from fabmon.wire.codec import encode
from fabmon.wire.event import Event
from fabmon.wire.fold import RunState, fold, key_of, positions_of

BATCH = 1000
BATCHES = 40
ROUNDS = 6


Blocks = Sequence[tuple[bytes, bytes]]
"""The COPY statements of one transaction, each with its rows."""


def main() -> None:
    limits = {
        "copy, 1 connection": (_every_row, 1),
        "copy, 2 connections": (_every_row, 2),
        "copy of event alone": (_events_alone, 1),
    }
    rates: dict[str, list[float]] = {"fabmon": [], **{name: [] for name in limits}}
    latencies: list[float] = []
    with database() as url, role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local:
        for number in range(ROUNDS):
            bodies = batches(BATCHES, BATCH, seed=4 * number)
            load = uvloop.run(post_all(local.port, "/v1/ingest/events:batch", bodies, 4))
            assert load.failures == 0
            rates["fabmon"].append(BATCH * BATCHES / load.seconds)
            latencies += load.latencies if number else []
            for place, (name, (encoded, connections)) in enumerate(limits.items(), 1):
                rates[name].append(copy_rate(url, encoded(4 * number + place), connections))
    counted = {name: values[1:] for name, values in rates.items()}
    ours, one, two, alone = map(median, counted.values())
    table = table_of(counted, "events/s")
    table += f"\nrequest latency p50 {median(latencies) * 1e3:.1f} ms, p99 {percentile(latencies, 0.99) * 1e3:.1f} ms"
    settings = (
        f"{ROUNDS - 1} interleaved rounds of {BATCHES} batches of {BATCH} events after one to warm up; 4 events a job; "
        "TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    results = [
        result("commit_against_event_alone", ours, alone, "events/s"),
        result("commit_against_two", ours, two, "events/s"),
        result("commit", ours, one, "events/s"),
    ]
    finish(results, settings, table, "commit")


def _events_alone(seed: int) -> list[Blocks]:
    return [[(query("copy_events"), copy_rows(made, positions_of(made)).encode())] for made in _batches(seed)]


def _every_row(seed: int) -> list[Blocks]:
    copy_keys = b"copy event_key (idempotency_key, site_id) from stdin"
    copy_runs = f"copy run ({', '.join(RunState.__struct_fields__)}) from stdin".encode()
    found: list[Blocks] = []
    for made in _batches(seed):
        positions = positions_of(made)
        keys = "".join(sorted(f"{key_of(position)}\tfab1\n" for position in positions))
        runs = "".join(map(_run_row, sorted(fold(made, positions), key=lambda state: state.id)))
        events_block = (query("copy_events"), copy_rows(made, positions).encode())
        found.append([(copy_keys, keys.encode()), events_block, (copy_runs, runs.encode())])
    return found


def _batches(seed: int) -> list[list[Event]]:
    made = events(BATCH * BATCHES, seed)
    return [made[start : start + BATCH] for start in range(0, len(made), BATCH)]


def _run_row(state: RunState) -> str:
    return "\t".join(map(_field, msgspec.structs.astuple(state))) + "\n"


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, dict):
        return encode(value).decode().replace("\\", "\\\\")
    return value.isoformat() if isinstance(value, datetime) else str(value)


def copy_rate(url: str, transactions: Sequence[Blocks], connections: int) -> float:
    """Events a second when each batch is a transaction of its own."""

    def copy(mine: Sequence[Blocks]) -> None:
        with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
            for blocks in mine:
                with connection.transaction():
                    for statement, rows in blocks:
                        with cursor.copy(statement) as target:
                            target.write(rows)

    begun = time.perf_counter()
    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(copy, [transactions[start::connections] for start in range(connections)]))
    return BATCH * len(transactions) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
