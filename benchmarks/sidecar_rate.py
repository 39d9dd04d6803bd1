"""Rounds of the sidecar, with its site and without, beside rounds of its limit."""

from benchmarks.bench import finish, median, percentile, result, role
from benchmarks.sidecar import Round, Shape, measure, program

ROUNDS = 11


def compare(shape: Shape) -> None:
    """`sidecar_SHAPE`: accepted and delivered to a site that answers at once, against decoding alone.

    `sidecar_SHAPE_site_down`: accepted into the spool, against the sidecar whose site is there.
    """
    bodies = shape.bodies()
    limit: list[Round] = []
    healthy: list[Round] = []
    down: list[Round] = []
    with (
        program("benchmarks.stub_site") as site,
        program("benchmarks.decode_only") as bare,
        role("sidecar", FABMON_LOCAL_URL=f"http://127.0.0.1:{site.port}", FABMON_SITE_ID="fab1") as sidecar,
        role("sidecar", FABMON_LOCAL_URL="http://127.0.0.1:9", FABMON_SPOOL_MAX_BYTES=str(10**11)) as alone,
    ):
        assert sidecar.process
        assert alone.process
        for _ in range(ROUNDS):
            limit.append(measure(bare.port, bare.process.pid, shape, bodies))
            healthy.append(measure(sidecar.port, sidecar.process.pid, shape, bodies, site))
            down.append(measure(alone.port, alone.process.pid, shape, bodies))
        assert sidecar.get("/v1/healthz").json["spool"]["accepted"] == 0
        assert alone.get("/v1/healthz").json["spool_count"] == ROUNDS * shape.total
    sides = {"only decodes": limit, "sidecar": healthy, "site down": down}
    table = "\n".join(_line(name, rounds[1:]) for name, rounds in sides.items())
    ours, most, spooled = (median([each.rate for each in rounds[1:]]) for rounds in (healthy, limit, down))
    settings = (
        f"{ROUNDS - 1} interleaved rounds after one to warm up, each of {shape.requests} requests with {shape.events} "
        f"events over {shape.connections} connections; the site is a stub that answers at once; CPU is that of the "
        "measured process. Not measured: TLS, tokens, gzip."
    )
    finish(
        [
            result(f"sidecar_{shape.name}_site_down", spooled, ours, "events/s"),
            result(f"sidecar_{shape.name}", ours, most, "events/s"),
        ],
        settings,
        table,
        f"sidecar_{shape.name}",
    )


def _line(name: str, rounds: list[Round]) -> str:
    latencies = [each for one in rounds for each in one.latencies]
    return (
        f"{name:13}{median([each.rate for each in rounds]):10,.0f} events/s"
        f"{median([each.cpu_us for each in rounds]):8.1f} µs CPU an event"
        f"   request p50 {median(latencies) * 1e3:6.2f} ms, p99 {percentile(latencies, 0.99) * 1e3:6.2f} ms"
    )
