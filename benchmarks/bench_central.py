"""central: one site asked through central against the site asked directly; and twenty sites merged into one answer.

One site: a real `local` with 1,000 jobs, pages of 100, the two asked in turn on connections that are kept. Twenty sites:
stubs in a process of their own, each with a page of 100 jobs that a real `local` gave; all 2,000 rows are asked for,
against the slowest of the sites, asked alone, and 15 ms.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import msgspec

from benchmarks.bench import database, finish, median, percentile, result, role
from benchmarks.data import batches
from benchmarks.load import post_all

ROUNDS, WARM = 400, 100
SITES, JOBS = 20, 100
MERGED_ROUNDS = 100
ALLOWED_MS = 15.0
ONE = "/v1/jobs?limit=100"
ALL = f"/v1/jobs?limit={SITES * JOBS}"

STUBS = """
import asyncio, pathlib, sys, uvloop
async def main(pages):
    loop = asyncio.get_running_loop()
    def of(answer):
        class Site(asyncio.Protocol):
            def connection_made(self, transport): self.transport, self.got = transport, b""
            def data_received(self, data):
                self.got += data
                while b"\\r\\n\\r\\n" in self.got:
                    self.got = self.got.partition(b"\\r\\n\\r\\n")[2]
                    self.transport.write(answer)
        return Site
    ports = []
    for page in pages:
        body = pathlib.Path(page).read_bytes()
        head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
        server = await loop.create_server(of(head + body), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
uvloop.run(main(sys.argv[1:]))
"""


def main() -> None:
    with database() as url, role("local", FABMON_DATABASE_URL=url, FABMON_SITE_ID="fab1") as local:
        load = asyncio.run(post_all(local.port, "/v1/ingest/events:batch", batches(4, 1000, seed=7), 2))
        assert load.failures == 0
        with role("central", FABMON_SITES=f"fab1={local.url}") as central:
            direct, through = _in_turn(local.port, central.port)
        page = _get(HTTPConnection("127.0.0.1", local.port), ONE)
    with _stubs(page) as ports:
        sites = ",".join(f"fab{n}=http://127.0.0.1:{port}" for n, port in enumerate(ports))
        with role("central", FABMON_SITES=sites) as central:
            slowest, merged = _merged(ports, central.port)
    allowed = slowest + ALLOWED_MS
    lines = [
        f"one site, directly      p50 {median(direct):6.2f} ms  p95 {percentile(direct, 0.95):6.2f}",
        f"one site, through       p50 {median(through):6.2f} ms  p95 {percentile(through, 0.95):6.2f}",
        f"{SITES} sites, the slowest   p50 {slowest:6.2f} ms",
        f"{SITES} sites, merged        p50 {median(merged):6.2f} ms  p95 {percentile(merged, 0.95):6.2f}",
    ]
    settings = (
        f"One site: pages of 100 from a real local, {ROUNDS} rounds after {WARM}. {SITES} sites: stubs that answer a "
        f"stored page of {JOBS} jobs ({len(page):,} bytes) at once, {MERGED_ROUNDS} rounds after 10, limit={SITES * JOBS}."
    )
    finish(
        [
            result("central", median(through), median(direct), "ms p50"),
            result("central_merged", median(merged), allowed, "ms p50, the limit being the slowest site + 15 ms"),
        ],
        settings,
        "\n".join(lines),
    )


def _in_turn(local: int, central: int) -> tuple[list[float], list[float]]:
    site, middle = HTTPConnection("127.0.0.1", local), HTTPConnection("127.0.0.1", central)
    direct, through = [], []
    for _ in range(WARM + ROUNDS):
        direct.append(_timed(site, ONE))
        through.append(_timed(middle, ONE + "&site=fab1"))
    return direct[WARM:], through[WARM:]


def _merged(ports: list[int], central: int) -> tuple[float, list[float]]:
    sites = [HTTPConnection("127.0.0.1", port) for port in ports]
    middle = HTTPConnection("127.0.0.1", central)
    alone: list[list[float]] = [[] for _ in sites]
    merged = []
    for _ in range(10 + MERGED_ROUNDS):
        for site, taken in zip(sites, alone, strict=True):
            taken.append(_timed(site, ALL))
        merged.append(_timed(middle, ALL + "&site=*"))
    answer = msgspec.json.decode(_get(middle, ALL + "&site=*"))
    assert (answer["count"], answer["complete"], len(answer["sites"])) == (SITES * JOBS, True, SITES)
    return max(median(taken[10:]) for taken in alone), merged[10:]


@contextmanager
def _stubs(page: bytes) -> Iterator[list[int]]:
    """As many sites with the same jobs under other ids."""
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory) / str(number) for number in range(SITES)]
        for number, place in enumerate(places):
            answer = msgspec.json.decode(page)
            for item in answer["items"]:
                item["job_id"] = str(uuid.uuid5(uuid.UUID(item["job_id"]), str(number)))
            place.write_bytes(msgspec.json.encode(answer | {"next_cursor": None}))
        command = [sys.executable, "-c", STUBS, *map(str, places)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.stdin.close()
            process.wait(10)


def _timed(http: HTTPConnection, question: str) -> float:
    begun = time.perf_counter()
    _get(http, question)
    return (time.perf_counter() - begun) * 1e3


def _get(http: HTTPConnection, question: str) -> bytes:
    http.request("GET", question)
    response = http.getresponse()
    body = response.read()
    assert response.status == 200, body
    return body


if __name__ == "__main__":
    main()
