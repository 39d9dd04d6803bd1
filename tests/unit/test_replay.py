"""The spool's way out against a site that misbehaves: everything arrives once it behaves, and only poison is given up."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fabmon.clock import monotonic
from fabmon.errors import PeerUnavailable
from fabmon.peer.client import Sent, open_peer
from fabmon.relay.replay import replay
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import Spool, open_spool
from tests.fixtures.roles import eventually_async
from tests.fixtures.site import Answer, Event, Site, open_site


class Running(msgspec.Struct):
    site: Site
    spool: Spool
    upstream: Upstream

    async def drained(self, seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while self.spool.pending:  # noqa: ASYNC110 - seen from outside, as a person would
                await asyncio.sleep(0.02)
        books = self.spool.books
        ended = books.delivered + books.dead + books.set_aside + sum(books.dropped.values())
        assert self.spool.accepted == ended
        assert books.delivered == self.spool.accepted - books.dead

    def letters(self) -> list[dict[str, Any]]:
        path = self.spool.directory / "dead.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def running(directory: Path, count: int, behave: Any = None, share: float = 0.5) -> AsyncIterator[Running]:
    """A spool of *count* events that is being drained into a site."""
    async with open_site() as site, open_spool(directory, 1 << 26) as spool, open_peer(site.url) as peer:
        if behave is not None:
            site.behave = behave
        await spool.append([b'{"n":%d}' % number for number in range(count)])
        upstream = Upstream(site.url)

        async def deliver(raws: Sequence[bytes], patience_seconds: float) -> Sent:
            return await peer.send_batch(raws, patience_seconds / 20)  # a test's patience is shorter

        async with replay(spool, deliver, upstream, share):
            yield Running(site, spool, upstream)


def poison(*numbers: int) -> Any:
    def behave(events: list[Event]) -> Answer:
        bad = [place for place, event in enumerate(events) if event["n"] in numbers]
        rejected = [{"index": place, "code": "wrong_site", "detail": "this is site fab1"} for place in bad]
        return Answer(status=207 if bad else 200, rejected=rejected)

    return behave


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 415])
async def test_a_refusal_of_the_request_pauses_and_gives_up_nothing(tmp_path: Path, status: int) -> None:
    async with running(tmp_path, 500, lambda _: Answer(status=status, body=b"no")) as it:
        await eventually_async(lambda: it.upstream.pause)
        await asyncio.sleep(0.3)
        assert (it.upstream.pause, it.spool.pending, it.letters()) == ("refusing", 500, [])
        it.site.behave = poison()
        await it.drained()
        assert (it.site.numbers, it.letters(), it.upstream.pause) == (set(range(500)), [], None)
        assert len(it.site.batches) < 12


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=503, body=b""),
        Answer(status=502, body=b"<html>"),
        Answer(status=200, body=b"<html>welcome to the guest network"),
        Answer(status=200, body=b'{"rejected": [{"index": 99999, "code": "x", "detail": "y"}]}'),
        Answer(status=200, body=b'{"rejected": "none"}'),
        Answer(status=200, body=b'{"ok": false, "rejected": []}'),
        Answer(status=200, body=b'{"error": "database down", "rejected": []}'),
        Answer(status=200, body=b'{"ok": 1, "rejected": []}'),
        Answer(status=207, body=b'{"ok": true, "stored": 0, "duplicates": 0, "spooled": 0, "rejected": []}'),
        Answer(status=422, body=b'{"rejected": []}'),
        Answer(status=302, headers={"location": "http://127.0.0.1:9/"}, body=b""),
        Answer(status=200, pause_seconds=60),
        Answer(status=200, byte_pause_seconds=1.0),
        Answer(status=599, body=b"\xff" * 100),
    ],
    ids=[
        "503",
        "502",
        "portal",
        "odd_index",
        "no_list",
        "not_ok",
        "no_word",
        "no_boolean",
        "none_stored",
        "none_refused",
        "redirect",
        "hangs",
        "byte_a_second",
        "599",
    ],
)
async def test_nonsense_and_silence_lose_nothing_and_a_probe_finds_the_site_back(
    tmp_path: Path, answer: Answer
) -> None:
    async with running(tmp_path, 200, lambda _: answer) as it:
        await asyncio.sleep(0.3)
        assert (it.spool.pending, it.letters()) == (200, [])
        it.site.behave = poison()
        await it.drained()
        assert (it.site.numbers, it.letters()) == (set(range(200)), [])


async def test_retry_after_is_honoured(tmp_path: Path) -> None:
    async with running(tmp_path, 50, lambda _: Answer(status=429, headers={"retry-after": "2"}, body=b"")) as it:
        await eventually_async(lambda: it.site.batches)
        it.site.behave = poison()
        await it.drained()
        assert it.site.batches[1][0] - it.site.batches[0][0] >= 2.0
        assert it.site.batches[1][1] == 1  # one event goes ahead
        assert it.site.numbers == set(range(50))


async def test_a_spool_that_cannot_book_what_was_refused_says_why_it_waits(tmp_path: Path) -> None:
    async with running(tmp_path, 20, lambda _: Answer(pause_seconds=0.3)) as it:
        it.site.behave = poison(0)
        (tmp_path / "dead.jsonl").mkdir()
        await eventually_async(lambda: it.upstream.pause == "spool")
        assert (it.upstream.state, "dead letters cannot be written" in it.upstream.why) == ("ok", True)
        (tmp_path / "dead.jsonl").rmdir()
        await it.drained()
        assert (it.upstream.pause, len(it.letters())) == (None, 1)


async def test_a_backlog_that_is_refused_for_the_most_part_is_held_until_a_fresh_event_passes(tmp_path: Path) -> None:
    bad = set(range(900))
    async with running(tmp_path, 1000, poison(*bad)) as it:
        await eventually_async(lambda: it.upstream.pause)
        assert (it.upstream.pause, it.spool.pending, it.letters()) == ("held", 1000, [])
        assert "900 of 1000" in it.upstream.held
        it.upstream.took(monotonic())
        await it.drained()
        assert (len(it.letters()), it.upstream.pause) == (900, None)
        assert it.site.numbers == set(range(1000)) - bad


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 0.4, 1.0), (0.25, 0.05, 0.3)])
async def test_while_fresh_events_come_the_backlog_gets_its_share(
    tmp_path: Path, share: float, least: float, most: float
) -> None:
    async with running(tmp_path, 160_000, lambda _: Answer(pause_seconds=0.05), share) as it:
        loop = asyncio.get_running_loop()

        async def busy(seconds: float, *, fresh: bool) -> float:
            """For which part of the time the backlog was under way at the site."""
            begun, before = loop.time(), len(it.site.batches)
            while loop.time() - begun < seconds:
                if fresh:
                    it.upstream.took(monotonic())
                await asyncio.sleep(0.005)
            return 0.05 * (len(it.site.batches) - before) / (loop.time() - begun)

        shared = await busy(1.5, fresh=True)
        assert shared <= most
        # Alone it has all of it, as far as the machine lets it.
        await asyncio.sleep(0.3)
        alone = await busy(0.6, fresh=False)
        assert least * alone <= shared
        assert share == 1.0 or alone > 1.3 * shared


@pytest.mark.parametrize("count", [300, 60, 12])
async def test_a_wrong_setting_at_the_site_that_is_mended_costs_nothing(tmp_path: Path, count: int) -> None:
    async with running(tmp_path, count, poison(*range(count))) as it:
        await asyncio.sleep(0.5)
        it.site.behave = poison()
        await it.drained()
        assert (it.letters(), it.site.numbers) == ([], set(range(count)))


@pytest.mark.parametrize("site_takes", [2000, 40], ids=["large events", "small bodies"])
async def test_a_refused_backlog_of_which_little_goes_at_a_time_is_held_as_well(
    tmp_path: Path, site_takes: int
) -> None:
    """Judged by as many as travel together, and not sent again and again."""
    everything = poison(*range(150))

    def behave(events: list[Event]) -> Answer:
        return Answer(status=413, body=b"") if len(events) > site_takes else everything(events)

    async with running(tmp_path, 0, behave) as it:
        pad = b"x" * (60_000 if site_takes == 2000 else 10)
        await it.spool.append([b'{"n":%d,"pad":"%b"}' % (number, pad) for number in range(150)])
        await asyncio.sleep(1.0)
        assert (it.upstream.pause, it.spool.pending, it.letters()) == ("held", 150, [])
        assert len(it.site.batches) < 12
        it.site.behave = poison()
        await it.drained()
        assert it.letters() == []


async def test_a_site_that_others_found_away_is_asked_by_one_event_first(tmp_path: Path) -> None:
    asked: list[tuple[int, float]] = []

    async def deliver(raws: Sequence[bytes], patience_seconds: float) -> Sent:
        asked.append((len(raws), patience_seconds))
        return Sent()

    async with open_spool(tmp_path, 1 << 26) as spool:
        await spool.append([b'{"n":%d}' % number for number in range(50)])
        upstream = Upstream("stub")
        upstream.failed(PeerUnavailable("a fresh event was not answered"))
        async with replay(spool, deliver, upstream, 1.0):
            await eventually_async(lambda: not spool.pending)
    assert asked[0] == (1, 2.0)
