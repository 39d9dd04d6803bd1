"""sidecar_drain: a backlog delivered to the site that comes back, against what that site takes from a bare sender.

The site is busy for each event's time and takes one batch after the other, as a database does. For what the sidecar itself
can do there is, in the table only, one that is never busy: it only decodes (benchmarks/decode_only.py).
"""

import time

import uvloop
from tests.fixtures.roles import Service, eventually

from benchmarks.bench import finish, median, result, role
from benchmarks.data import batches
from benchmarks.load import post_all
from benchmarks.sidecar import BATCH, Program, cpu_seconds, program
from fabmon.relay.pace import MOST_EVENTS

BACKLOG = 200_000
SITE_TAKES = 50_000  # events a second; what `local` takes on two cores is of this size
ROUNDS = 3


def main() -> None:
    direct = batches(BACKLOG // MOST_EVENTS, MOST_EVENTS, seed=1)
    waiting = batches(BACKLOG // BATCH.events, BATCH.events, seed=1)
    results, lines = [], []
    for name, module, arguments in (
        ("sidecar_drain_decoding_site", "benchmarks.decode_only", ()),
        ("sidecar_drain", "benchmarks.stub_site", (str(SITE_TAKES),)),
    ):
        ours, cpu, limit = [], [], []
        for _ in range(ROUNDS):
            with program(module, *arguments) as site:
                limit.append(BACKLOG / uvloop.run(post_all(site.port, BATCH.path, direct, 2)).seconds)
            rate, spent = drain(site, module, arguments, waiting)
            ours.append(rate)
            cpu.append(spent)
        if name == "sidecar_drain":
            results.append(result(name, median(ours), median(limit), "events/s"))
        lines.append(
            f"{name:28}{median(ours):10,.0f} events/s of {median(limit):10,.0f}, {median(cpu):5.1f} µs CPU an event"
        )
    settings = (
        f"The median of {ROUNDS} rounds of a backlog of {BACKLOG:,} events, in batches of {MOST_EVENTS:,}; the rate counts "
        "from the first delivered event; the bare sender has two connections."
    )
    finish(results, settings, "\n".join(lines), "sidecar_drain")


def drain(site: Program, module: str, arguments: tuple[str, ...], bodies: list[bytes]) -> tuple[float, float]:
    """Events a second from the moment on when the site is found back, and CPU µs of the sidecar for each."""
    with role("sidecar", FABMON_LOCAL_URL=f"http://127.0.0.1:{site.port}") as sidecar:
        assert sidecar.process
        load = uvloop.run(post_all(sidecar.port, BATCH.path, bodies, BATCH.connections))
        assert (load.failures, _pending(sidecar)) == (0, BACKLOG)
        with program(module, *arguments, port=site.port):
            eventually(lambda: _pending(sidecar) < BACKLOG, 30)
            left, begun, cpu = _pending(sidecar), time.perf_counter(), cpu_seconds(sidecar.process.pid)
            eventually(lambda: _pending(sidecar) == 0, 120)
            seconds = time.perf_counter() - begun
            return left / seconds, (cpu_seconds(sidecar.process.pid) - cpu) / left * 1e6


def _pending(sidecar: Service) -> int:
    count: int = sidecar.get("/v1/healthz").json["spool_count"]
    return count


if __name__ == "__main__":
    main()
