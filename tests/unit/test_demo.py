"""The simulated fab tells a story that holds together, and its sender loses nothing that it has room for."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from time import monotonic
from uuid import UUID

import pytest
from aiohttp import web

from fabmon import clock
from fabmon.demo.delivery import Delivery, deliveries, outage
from fabmon.demo.fab import HISTORY, Job, jobs
from fabmon.demo.send import open_sender
from fabmon.wire.codec import encode
from fabmon.wire.event import Event, read_batch, read_event

pytestmark = pytest.mark.anyio

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
SITE = "fab1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def some_deliveries(number: int, *, seed: int = 7, start: datetime = START) -> list[Delivery]:
    return list(islice(deliveries(seed=seed, site_id=SITE, start=start), number))


def some_jobs(number: int) -> list[Job]:
    return list(islice(jobs(seed=7, site_id=SITE, start=START), number))


def course(sent: list[Delivery], start: datetime) -> list[tuple[timedelta, str, str, str | None]]:
    """What happens, without the ids."""
    return [(d.at - start, d.event.app.name, d.event.event.kind, d.event.entity.sub_key) for d in sent]


async def test_the_same_seed_site_and_start_give_the_same_deliveries() -> None:
    assert some_deliveries(3000) == some_deliveries(3000)
    assert some_deliveries(100) != some_deliveries(100, seed=8)


async def test_a_second_start_has_the_same_course_and_new_ids() -> None:
    later = START + timedelta(hours=1)
    first, second = some_deliveries(2000), some_deliveries(2000, start=later)
    assert course(first, START) == course(second, later)
    assert not {d.event.idempotency_key for d in first} & {d.event.idempotency_key for d in second}
    assert not {d.event.entity.id for d in first} & {d.event.entity.id for d in second}
    assert {d.event.app.app_id for d in first} == {d.event.app.app_id for d in second}


async def test_every_event_passes_the_rules_of_the_wire() -> None:
    for sent in some_deliveries(6000):
        assert read_event(encode(sent.event), now=sent.at, site_id=SITE) == sent.event


async def test_a_job_starts_once_ends_once_and_its_subjobs_lie_within_it() -> None:
    for job in some_jobs(400):
        by_entity: dict[UUID, list[Event]] = {}
        for event in job.events:
            by_entity.setdefault(event.entity.id, []).append(event)
        tops = [events for events in by_entity.values() if events[0].entity.type == "job"]
        assert len(tops) == 1
        job_id = tops[0][0].entity.id
        assert len(by_entity) - 1 <= 25
        for events in by_entity.values():
            kinds = Counter(event.event.kind for event in events)
            assert kinds["started"] == 1
            assert sum(event.event.ends_the_run for event in events) == 1
            assert events[0].event.kind == "started"
            assert events[-1].event.ends_the_run
            assert tops[0][0].event.at <= events[0].event.at <= events[-1].event.at <= tops[0][-1].event.at
            lasted = (events[-1].event.at - events[0].event.at).total_seconds()
            assert events[-1].event.metrics["duration_s"] == pytest.approx(lasted, abs=0.002)
            assert all(e.entity.parent_id == job_id for e in events if e.entity.type == "subjob")


async def test_a_few_percent_of_the_jobs_fail_or_are_canceled_and_say_why() -> None:
    ends = [job.events[-1].event for job in some_jobs(2000)]
    shares = {kind: number / len(ends) for kind, number in Counter(end.kind for end in ends).items()}
    assert 0.02 < shares["error"] < 0.06
    assert 0.01 < shares["canceled"] < 0.04
    assert all(end.metadata["error"] for end in ends if end.kind == "error")
    assert all(end.metadata["reason"] for end in ends if end.kind == "canceled")


async def test_at_the_start_there_is_a_history_and_jobs_are_running() -> None:
    begun = list(takewhile(lambda job: job.starts_at < START, jobs(seed=7, site_id=SITE, start=START)))
    assert 60 <= len(begun) <= 150
    assert all(job.starts_at >= START - HISTORY for job in begun)
    assert begun[0].starts_at < START - timedelta(hours=3)
    assert sum(job.events[-1].event.at > START for job in begun) >= 5


async def test_at_speed_one_five_to_fifteen_events_a_second_are_sent() -> None:
    end = START + timedelta(minutes=10)
    sent = takewhile(lambda d: d.at < end, deliveries(seed=7, site_id=SITE, start=START))
    assert 5 < sum(d.at >= START for d in sent) / 600 < 15


async def test_some_events_are_late_some_are_repeated_and_some_are_out_of_order() -> None:
    sent = some_deliveries(6000)
    assert [d.at for d in sent] == sorted(d.at for d in sent)
    assert all(d.at >= d.event.event.at for d in sent)
    first: dict[UUID, Event] = {}
    assert all(first.setdefault(d.event.idempotency_key, d.event) == d.event for d in sent)
    repeated = len(sent) - len(first)
    assert 0.005 < repeated / len(sent) < 0.1
    assert 0.005 < sum(d.at - d.event.event.at > timedelta(seconds=5) for d in sent) / len(sent) < 0.2
    happened = [d.event.event.at for d in sent]
    assert sum(a > b for a, b in pairwise(happened)) > 100


async def test_nothing_is_sent_during_an_outage_and_part_of_it_twice_afterwards() -> None:
    windows = [window for slot in range(3) if (window := outage(7, slot))]
    assert windows
    assert all(10 <= end - begin <= 30 for begin, end in windows)
    until = START + timedelta(seconds=windows[-1][1] + 30)
    sent = list(takewhile(lambda d: d.at < until, deliveries(seed=7, site_id=SITE, start=START)))
    for begin, end in windows:
        first, last = START + timedelta(seconds=begin), START + timedelta(seconds=end)
        assert not [d for d in sent if first <= d.at < last]
        held = Counter(d.event.idempotency_key for d in sent if first <= d.event.event.at < last)
        assert len(held) > 20
        assert max(held.values()) == 2


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
    async with asyncio.timeout(3):
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
    async with sidecar.open() as url:
        async with open_sender("http://127.0.0.1:9" if state == "away" else url, flush_seconds=0.02) as sender:
            for event in some_events(10):
                sender.offer(event)
            await asyncio.sleep(0.05)
            stopping = monotonic()
        assert monotonic() - stopping < 0.8
        assert sender.waiting == 10


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
    async with sidecar.open() as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fabmon.demo", "--url", url, "--site", SITE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until(lambda: len(sidecar.kept) > 1000)
            stopping = monotonic()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(3):
                assert await process.wait() == 0
            assert monotonic() - stopping < 1.0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
