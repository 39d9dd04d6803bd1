"""growth: the rate of `commit` over ten million stored events, against the rate over none.

Two databases on one server, one of them filled (`fill.py`), a role over each; rounds of both are interleaved, the first of
each warms up and is left out. A smaller number as the argument is for trying.
"""

import sys
import time

import uvloop

from benchmarks.bench import database, finish, median, result, role, table_of
from benchmarks.data import batches
from benchmarks.fill import fill_events
from benchmarks.load import post_all

STORED = 10_000_000
BATCH = 1000
BATCHES = 40
ROUNDS = 6


def main(stored: int) -> None:
    rates: dict[str, list[float]] = {"over none": [], "over many": []}
    with database("empty") as empty, database("full") as full:
        begun = time.perf_counter()
        fill_events(full, stored)
        filled = time.perf_counter() - begun
        with (
            role("local", FABMON_DATABASE_URL=empty, FABMON_SITE_ID="fab1") as over_none,
            role("local", FABMON_DATABASE_URL=full, FABMON_SITE_ID="fab1") as over_many,
        ):
            for number in range(ROUNDS):
                bodies = batches(BATCHES, BATCH, seed=number)
                for name, local in (("over none", over_none), ("over many", over_many)):
                    load = uvloop.run(post_all(local.port, "/v1/ingest/events:batch", bodies, 4))
                    assert load.failures == 0
                    rates[name].append(BATCH * BATCHES / load.seconds)
    counted = {name: values[1:] for name, values in rates.items()}
    settings = (
        f"{stored:,} events of {stored // 4:,} jobs stored over 20 days (filled in {filled:.0f} s); "
        f"{ROUNDS - 1} interleaved rounds of {BATCHES} batches of {BATCH} events over 4 connections after one to warm up; "
        "TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    at_none, at_many = map(median, counted.values())
    finish([result("growth", at_many, at_none, "events/s")], settings, table_of(counted, "events/s"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STORED)
