"""A fresh event against a site that misbehaves: answered in time, kept, and the site is found back when it behaves."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fabmon.errors import Overloaded, PeerUnavailable, SpoolFull
from fabmon.peer.client import Peer, Sent, open_peer
from fabmon.relay import forward as forward_module
from fabmon.relay.contact import Speaker, keep_contact
from fabmon.relay.forward import Underway, forward
from fabmon.relay.replay import replay
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import Spool, open_spool
from fabmon.wire.event import Batch, Receipt, Sink
from tests.fixtures.roles import eventually_async, free_port
from tests.fixtures.site import Answer, Event, open_site
from tests.make import event

TIMEOUT_SECONDS = 0.5


class Sidecar(msgspec.Struct):
    """What a sidecar is made of, without its front door."""

    spool: Spool
    peer: Peer
    upstream: Upstream

    def sink(self) -> Sink:
        async def send(batch: Batch) -> Receipt:
            sent = await self.peer.send_batch(batch.raws, TIMEOUT_SECONDS)
            return Receipt(stored=len(batch.raws) - len(sent.rejected), rejected=list(sent.rejected))

        return forward(send, self.spool, self.upstream, TIMEOUT_SECONDS, Underway(), spool_when_busy=True)

    async def take(self, *numbers: int) -> Receipt:
        return await self.sink()(Batch([event() for _ in numbers], [b'{"n":%d}' % number for number in numbers]))

    async def deliver(self, raws: Sequence[bytes], patience_seconds: float) -> Sent:
        return await self.peer.send_batch(raws, patience_seconds)


@asynccontextmanager
async def sidecar(directory: Path, url: str, max_bytes: int = 1 << 26) -> AsyncIterator[Sidecar]:
    async with open_spool(directory, max_bytes) as spool, open_peer(url) as peer:
        it = Sidecar(spool, peer, Upstream(url))
        async with replay(spool, it.deliver, it.upstream, 0.5):
            yield it


async def seconds_until(predicate: Any) -> float:
    begun = asyncio.get_running_loop().time()
    await eventually_async(predicate)
    return asyncio.get_running_loop().time() - begun


BAD = {
    "refuses": Answer(status=503, body=b""),
    "401": Answer(status=401, body=b""),
    "429": Answer(status=429, headers={"retry-after": "1"}, body=b""),
    "portal": Answer(status=200, body=b"<html>welcome to the guest network"),
    "odd_index": Answer(status=200, body=b'{"rejected": [{"index": 99999, "code": "x", "detail": "y"}]}'),
    "hangs": Answer(pause_seconds=60),
    "byte_a_second": Answer(byte_pause_seconds=1.0),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_a_fresh_event_is_kept_in_time_and_arrives_when_the_site_behaves(tmp_path: Path, answer: Answer) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = lambda _: answer
        async with asyncio.timeout(TIMEOUT_SECONDS + 0.5):
            assert (await it.take(0)).spooled == 1
        async with asyncio.timeout(TIMEOUT_SECONDS - 0.05):  # known to be away: nothing waits for it
            assert (await it.take(1, 2)).spooled == 2
        site.behave = lambda _: Answer()
        await eventually_async(lambda: not it.spool.pending)
        assert (site.numbers, it.upstream.pause, it.spool.books.dead) == ({0, 1, 2}, None, 0)
        assert (await it.take(3)).stored == 1


async def test_an_answer_to_what_was_sent_before_a_refusal_proves_nothing(tmp_path: Path) -> None:
    """The right to send ends while a fresh event is under way: the one that is refused then is not to blame."""
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        answers = iter([Answer(pause_seconds=TIMEOUT_SECONDS - 0.1)])
        site.behave = lambda _: next(answers, Answer(status=403, body=b""))
        fresh = asyncio.create_task(it.take(99))
        await eventually_async(lambda: site.batches)
        await it.spool.append([b'{"n":0}'])
        assert (await fresh).stored == 1
        await eventually_async(lambda: len(site.batches) > 3)
        assert (it.spool.pending, it.spool.books.dead, it.upstream.state) == (1, 0, "refusing")
        site.behave = lambda _: Answer()
        await eventually_async(lambda: not it.spool.pending)
        assert (site.numbers, it.spool.books.dead) == ({0, 99}, 0)


async def test_what_waits_for_a_slow_disk_is_bounded_and_who_comes_then_is_asked_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_module, "_MOST_WAITING_BYTES", 20)
    async with sidecar(tmp_path, f"http://127.0.0.1:{free_port()}") as it:
        it.upstream.failed(PeerUnavailable("it is away"))
        sink = it.sink()
        batch = Batch([event(), event()], [b'{"n":12345678}', b'{"n":2}'])  # alone it is taken, however large
        answers = await asyncio.gather(*(sink(batch) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in answers] == [Receipt, Overloaded, Overloaded]
        assert ((await sink(batch)).spooled, it.spool.pending) == (2, 4)


async def test_a_fresh_event_too_large_for_the_site_makes_no_other_wait(tmp_path: Path) -> None:
    def only_small(events: list[Event]) -> Answer:
        return Answer(status=413, body=b"") if len(events) > 1 else Answer()

    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = only_small
        assert (await it.take(0, 1)).spooled == 2
        assert (it.upstream.pause, (await it.take(2)).stored) == (None, 1)
        await eventually_async(lambda: not it.spool.pending)
        assert site.numbers == {0, 1, 2}


async def test_retry_after_in_answer_to_a_fresh_event_is_honoured(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = lambda _: Answer(status=503, headers={"retry-after": "2"}, body=b"")
        assert (await it.take(0)).spooled == 1
        site.behave = lambda _: Answer()
        await eventually_async(lambda: not it.spool.pending)
        assert 2.0 <= site.batches[1][0] - site.batches[0][0] < 3.5
        assert (len(site.batches), site.questions) == (2, 0)


async def test_a_site_that_is_slow_and_answers_questions_gets_its_time(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = lambda events: Answer(pause_seconds=3.0 if events else 0.0)
        await it.spool.append([b'{"n":1}'])
        await eventually_async(lambda: not it.spool.pending)
        assert (len(site.batches), site.numbers) == (1, {1})
        assert site.questions >= 1


async def test_without_an_event_to_try_it_with_a_site_is_back_when_it_answers(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url, max_bytes=4096) as it:
        refused: dict[str, Any] = {"status": 401, "body": b""}
        site.behave = lambda _: Answer(**refused)
        raw = b'{"n":0,"pad":"%b"}' % (b"x" * 8192)
        it.upstream.failed(ConnectionError("tried in vain"))
        with pytest.raises(SpoolFull):
            await it.spool.append([raw])
        await eventually_async(lambda: it.upstream.state == "refusing")
        assert "401" in it.upstream.reason
        await asyncio.sleep(1.5)
        assert (it.upstream.state, it.spool.pending, site.batches) == ("refusing", 0, [])
        site.behave = lambda _: Answer()
        assert await seconds_until(lambda: it.upstream.state == "ok") < 3.0


async def test_a_site_that_is_away_is_known_before_the_first_event(tmp_path: Path) -> None:
    async with (
        sidecar(tmp_path, f"http://127.0.0.1:{free_port()}") as it,
        keep_contact(Speaker(it.spool, Underway(), "fab1"), it.peer, it.upstream, it.deliver),
    ):
        await eventually_async(lambda: it.upstream.state == "away")
        await asyncio.sleep(1.5)
        assert it.upstream.state == "away"


@pytest.mark.parametrize(("status", "state"), [(401, "refusing"), (403, "refusing"), (404, "refusing"), (503, "away")])
async def test_a_site_that_takes_nothing_is_known_before_the_first_event(
    tmp_path: Path, status: int, state: str
) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = lambda _: Answer(status=status, body=b"")
        async with keep_contact(Speaker(it.spool, Underway(), "fab1"), it.peer, it.upstream, it.deliver):
            await eventually_async(lambda: it.upstream.state == state)
            assert str(status) in it.upstream.reason
            site.behave = lambda _: Answer()
            assert await seconds_until(lambda: it.upstream.state == "ok") < 3.0


async def test_a_site_without_an_ear_for_sidecars_takes_events(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        # What a sidecar says of itself is an object, events are a list.
        site.behave = lambda events: Answer(status=404, body=b"") if isinstance(events, dict) else Answer()
        async with keep_contact(Speaker(it.spool, Underway(), "fab1"), it.peer, it.upstream, it.deliver):
            await eventually_async(lambda: site.questions)
            assert (it.upstream.state, (await it.take(0)).stored) == ("ok", 1)
