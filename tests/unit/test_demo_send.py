"""The sender of the simulated fab loses nothing that it has room for."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from uuid import UUID

import pytest
from aiohttp import web

from fabmon import clock
from fabmon.demo.send import open_sender
from fabmon.wire.event import Event, read_batch
from tests.fixtures.timing import in_time_async
from tests.unit.test_demo import SITE, START, some_deliveries

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Sidecar:
    """A real server on a real socket; *status* is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.sizes: list[int] = []
        self.kept: list[Event] = []
        self.hang = asyncio.Event()
        self.hang.set()
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/ingest/events:batch", self._batch)
        app.router.add_post("/v1/ingest/events", self._single)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            yield f"http://127.0.0.1:{self.port}"
        finally:
            self.hang.set()
            await runner.cleanup()

    async def _batch(self, request: web.Request) -> web.Response:
        return await self._answer(await request.read())

    async def _single(self, request: web.Request) -> web.Response:
        return await self._answer(b"[" + await request.read() + b"]")

    async def _answer(self, body: bytes) -> web.Response:
        self.asked += 1
        await self.hang.wait()
        if self.status == 200:
            batch = read_batch(body, now=max(START, clock.now()), site_id=SITE)
            assert not batch.rejected
            self.sizes.append(len(batch.events))
            self.kept.extend(batch.events)
        return web.json_response({"ok": self.status == 200}, status=self.status)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server
            await asyncio.sleep(0.01)


def some_events(number: int) -> list[Event]:
    return [d.event for d in some_deliveries(number)]


def all_of(events: list[Event]) -> Counter[UUID]:
    return Counter(event.idempotency_key for event in events)


async def test_everything_arrives_after_the_sidecar_answered_503_for_a_while() -> None:
    events, sidecar = some_events(1201), Sidecar()
    sidecar.status = 503
    async with sidecar.open() as url, open_sender(url, flush_seconds=0.02, first_delay_seconds=0.02) as sender:
        for event in events:
            sender.offer(event)
        await until(lambda: sidecar.asked >= 3)
        assert sender.waiting == 1201
        sidecar.status = 200
        await until(lambda: sender.accepted_total == 1201)
    assert all_of(sidecar.kept) == all_of(events)
    assert max(sidecar.sizes) <= 500
    assert (sender.waiting, sender.dropped_total, sender.rejected_total) == (0, 0, 0)


async def test_everything_arrives_after_connections_were_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fabmon.demo")
    events, sidecar = some_events(700), Sidecar()
    async with sidecar.open() as url:
        pass  # the port is known now, and nobody listens
    async with open_sender(url, flush_seconds=0.02, first_delay_seconds=0.02) as sender:
        for event in events:
            sender.offer(event)
        await until(lambda: "sidecar.unreachable" in caplog.text)
        await asyncio.sleep(0.1)
        async with sidecar.open():
            await until(lambda: sender.accepted_total == 700)
    assert all_of(sidecar.kept) == all_of(events)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["sidecar.unreachable", "sidecar.reachable"]


async def test_past_the_bound_the_oldest_events_are_dropped_and_counted() -> None:
    events, sidecar = some_events(300), Sidecar()
    sidecar.status = 503
    async with sidecar.open() as url, open_sender(url, waiting_limit=100, first_delay_seconds=0.02) as sender:
        for event in events:
            sender.offer(event)
        await until(lambda: sidecar.asked >= 2)
        sidecar.status = 200
        await until(lambda: sender.accepted_total == 100)
    assert all_of(sidecar.kept) == all_of(events[200:])
    assert sender.dropped_total == 200


async def test_an_event_alone_and_the_last_ones_are_sent_when_it_stops() -> None:
    events, sidecar = some_events(4), Sidecar()
    async with sidecar.open() as url:
        async with open_sender(url, flush_seconds=0.02) as sender:
            sender.offer(events[0])
            await until(lambda: sidecar.kept)
            for event in events[1:]:
                sender.offer(event)
        assert sidecar.kept == events


@pytest.mark.parametrize("state", ["silent", "failing", "away"])
async def test_it_stops_in_time_whatever_the_sidecar_does(state: str) -> None:
    sidecar = Sidecar()
    sidecar.status = 503
    if state == "silent":
        sidecar.hang.clear()

    async def stop() -> float:
        async with open_sender("http://127.0.0.1:9" if state == "away" else url, flush_seconds=0.02) as sender:
            for event in some_events(10):
                sender.offer(event)
            await asyncio.sleep(0.05)
            stopping = monotonic()
        took = monotonic() - stopping
        assert sender.waiting == 10
        return took

    async with sidecar.open() as url:
        await in_time_async(0.8, stop)


async def test_refused_events_are_counted_and_do_not_hold_up_the_others() -> None:
    events, sidecar = some_events(20), Sidecar()
    sidecar.status = 422
    async with sidecar.open() as url, open_sender(url, flush_seconds=0.02) as sender:
        for event in events[:10]:
            sender.offer(event)
        await until(lambda: sender.rejected_total == 10)
        sidecar.status = 200
        for event in events[10:]:
            sender.offer(event)
        await until(lambda: sender.accepted_total == 10)
    assert sidecar.kept == events[10:]


async def test_the_process_reports_and_ends_on_sigterm_within_a_second_with_exit_code_0() -> None:
    sidecar = Sidecar()

    async def stop() -> float:
        sidecar.kept.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fabmon.demo", "--url", url, "--site", SITE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until(lambda: len(sidecar.kept) > 1000)
            stopping = monotonic()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await process.wait() == 0
            return monotonic() - stopping
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async with sidecar.open() as url:
        await in_time_async(1.0, stop)
