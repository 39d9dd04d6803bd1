"""commit: HTTP batches of 1,000 over 4 connections, stored and folded, against plain COPY of the same rows.

The limit is what PostgreSQL does at its fastest with the same rows, encoded beforehand, into the same table with its
indexes, without keys, fold, HTTP or checks. Rounds of both are interleaved; the first of each warms up and is left out.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

from benchmarks.bench import database, finish, median, percentile, result, role
from benchmarks.data import batches, events
from benchmarks.load import post_all
from fabmon.store.events import copy_row
from fabmon.store.named import query
from fabmon.wire.fold import position

BATCH = 1000
BATCHES = 40
ROUNDS = 6


def main() -> None:
    rates: dict[str, list[float]] = {"fabmon": [], "copy, 1 connection": [], "copy, 2 connections": []}
    latencies: list[float] = []
    with database() as url, role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local:
        for number in range(ROUNDS):
            bodies = batches(BATCHES, BATCH, seed=3 * number)
            load = asyncio.run(post_all(local.port, "/v1/ingest/events:batch", bodies, 4))
            assert load.failures == 0
            rates["fabmon"].append(BATCH * BATCHES / load.seconds)
            latencies += load.latencies if number else []
            rates["copy, 1 connection"].append(copy_rate(url, _blocks(3 * number + 1), 1))
            rates["copy, 2 connections"].append(copy_rate(url, _blocks(3 * number + 2), 2))
    ours, one, two = (median(rates[name][1:]) for name in rates)
    table = "\n".join(
        f"{name:20} {median(values[1:]):9,.0f} events/s   {_each(values)}" for name, values in rates.items()
    )
    table += f"\nrequest latency p50 {median(latencies) * 1e3:.1f} ms, p99 {percentile(latencies, 0.99) * 1e3:.1f} ms"
    settings = (
        f"{ROUNDS - 1} interleaved rounds of {BATCHES} batches of {BATCH} events after one to warm up; 4 events a job; "
        "TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    finish(
        [result("commit", ours, one, "events/s"), result("commit_against_two", ours, two, "events/s")], settings, table
    )


def _blocks(seed: int) -> list[bytes]:
    made = events(BATCH * BATCHES, seed)
    rows = [copy_row(event, position(event)) + "\n" for event in made]
    return ["".join(rows[start : start + BATCH]).encode() for start in range(0, len(rows), BATCH)]


def copy_rate(url: str, blocks: list[bytes], connections: int) -> float:
    """Events a second when each block is a COPY and a transaction of its own, as a batch is."""

    def copy(mine: list[bytes]) -> None:
        with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
            for block in mine:
                with cursor.copy(query("copy_events")) as target:
                    target.write(block)

    begun = time.perf_counter()
    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(copy, [blocks[start::connections] for start in range(connections)]))
    return BATCH * len(blocks) / (time.perf_counter() - begun)


def _each(values: list[float]) -> str:
    return " ".join(f"{value:,.0f}" for value in values[1:])


if __name__ == "__main__":
    main()
