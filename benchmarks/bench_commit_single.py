"""commit_single: one event a request over 64 connections, each answered after its commit, against decoding it only.

The limit is a Starlette endpoint on the same server (`decode_only.py`) that decodes the event and answers: no checks, no
store. Rounds of both are interleaved; the first of each warms up and is left out.
"""

import uvloop

from benchmarks.bench import database, finish, median, percentile, result, role, table_of
from benchmarks.data import events
from benchmarks.load import post_all
from benchmarks.sidecar import program
from fabmon.wire.codec import encode

CONNECTIONS = 64
EVENTS = 16_000
ROUNDS = 6


def main() -> None:
    rates: dict[str, list[float]] = {"fabmon": [], "decode and answer": []}
    latencies: list[float] = []
    with (
        database() as url,
        role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local,
        program("benchmarks.decode_only") as limit,
    ):
        for number in range(ROUNDS):
            bodies = [encode(event) for event in events(EVENTS, seed=number)]
            for name, port, path in (
                ("fabmon", local.port, "/v1/ingest/events"),
                ("decode and answer", limit.port, "/v1/decode"),
            ):
                load = uvloop.run(post_all(port, path, bodies, CONNECTIONS))
                assert load.failures == 0
                rates[name].append(EVENTS / load.seconds)
                latencies += load.latencies if name == "fabmon" and number else []
    counted = {name: values[1:] for name, values in rates.items()}
    ours, most = map(median, counted.values())
    table = table_of(counted, "events/s")
    table += f"\nrequest latency p50 {median(latencies) * 1e3:.1f} ms, p99 {percentile(latencies, 0.99) * 1e3:.1f} ms"
    settings = (
        f"{ROUNDS - 1} interleaved rounds of {EVENTS} events after one to warm up, over {CONNECTIONS} connections; "
        "4 events a job; TimescaleDB on PostgreSQL 17, fsync and synchronous_commit on."
    )
    finish([result("commit_single", ours, most, "events/s")], settings, table)


if __name__ == "__main__":
    main()
