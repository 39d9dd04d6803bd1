"""Questions beside a delivery that hangs: a site is found back soon, and one that is only slow gets its time."""

import asyncio
from itertools import cycle
from pathlib import Path

from fabmon.errors import PeerUnavailable
from fabmon.relay.contact import Speaker, keep_contact
from fabmon.relay.forward import Underway
from tests.fixtures.roles import eventually_async
from tests.fixtures.site import Answer, Event, open_site
from tests.unit.test_forward import seconds_until, sidecar


async def test_a_site_that_hangs_again_and_again_is_found_back_soon_whatever_a_probe_waits(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:

        async def hang_for_a_while(then: Answer) -> None:
            site.behave = lambda _: Answer(pause_seconds=60)
            before = len(site.batches)
            await eventually_async(lambda: len(site.batches) > before)
            await asyncio.sleep(2.5)  # the first probe hangs for two seconds, the next ones for longer
            asked = len(site.batches)
            site.behave = lambda _: then
            assert await seconds_until(lambda: len(site.batches) > asked) < 3.2

        it.upstream.failed(PeerUnavailable("known by a fresh event"))
        await it.spool.append([b'{"n":0}'])
        await hang_for_a_while(Answer(status=503, body=b""))
        await hang_for_a_while(Answer())
        await eventually_async(lambda: not it.spool.pending)


async def test_a_batch_that_hangs_with_the_site_is_sent_again_soon_after_it_is_back(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = lambda _: Answer(pause_seconds=60)
        await it.spool.append([b'{"n":%d}' % number for number in range(500)])
        await asyncio.sleep(6.0)
        assert len(site.batches) == 1
        site.behave = lambda _: Answer()
        assert await seconds_until(lambda: not it.spool.pending) < 5.0
        assert (site.batches[0][1], site.batches[1][1], it.upstream.state) == (500, 1, "ok")


async def test_a_slow_site_that_is_silent_now_and_then_gets_its_time(tmp_path: Path) -> None:
    for place, count in enumerate((1, 4000)):
        late = cycle([1.3, 0.0])

        def behave(events: list[Event], late: "cycle[float]" = late) -> Answer:
            return Answer(pause_seconds=3.0 if events else next(late))

        async with open_site() as site, sidecar(tmp_path / str(place), site.url) as it:
            site.behave = behave
            await it.spool.append([b'{"n":%d}' % number for number in range(count)])
            await eventually_async(lambda it=it: not it.spool.pending)  # type: ignore[misc]
            # An event alone may be sent twice; a batch never is.
            assert [events for _, events in site.batches] in ([1], [1, 1], [2000, 2000])
            assert it.upstream.state == "ok"


async def test_retry_after_counts_although_what_was_asked_before_succeeds(tmp_path: Path) -> None:
    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = lambda _: Answer(pause_seconds=0.4)
        await it.spool.append([b'{"n":%d}' % number for number in range(50)])
        await eventually_async(lambda: site.batches)
        site.behave = lambda _: Answer(status=503, headers={"retry-after": "2"}, body=b"")
        assert (await it.take(50)).spooled == 1
        site.behave = lambda _: Answer()
        await eventually_async(lambda: it.spool.pending == 1)
        assert it.upstream.state == "away"
        await eventually_async(lambda: not it.spool.pending)
        assert site.batches[2][0] - site.batches[1][0] >= 2.0


async def test_contact_that_is_not_heard_contradicts_no_site_that_stores(tmp_path: Path) -> None:
    def behave(events: list[Event]) -> Answer:
        return Answer(pause_seconds=0.5) if events and isinstance(events, list) else Answer(pause_seconds=60)

    async with open_site() as site, sidecar(tmp_path, site.url) as it:
        site.behave = behave
        await it.spool.append([b'{"n":%d}' % number for number in range(30_000)])
        async with keep_contact(Speaker(it.spool, Underway(), "fab1"), it.peer, it.upstream, it.deliver):
            for _ in range(50):
                await asyncio.sleep(0.1)
                assert it.upstream.state == "ok"
        assert site.questions >= 1
