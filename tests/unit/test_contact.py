"""What sidecars tell of themselves: bounded, whoever invents them; and of the time at which it was said, not heard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import uvicorn
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fabmon.clock import monotonic
from fabmon.errors import Overloaded
from fabmon.httpd.app import build_app
from fabmon.ingest.accept import Door
from fabmon.ingest.contact import Contacts, contact_routes, hearing, keep_contacts
from fabmon.peer.client import open_peer
from fabmon.relay.contact import Speaker, _is_heard
from fabmon.relay.forward import Underway
from fabmon.spool.spool import open_spool
from fabmon.store.pool import open_pool
from fabmon.store.schema import open_schema
from fabmon.wire.contact import SAID_AT_HEADER, Contact, read_clock
from tests.fixtures.roles import free_port


def fill(contacts: Contacts) -> None:
    with pytest.raises(Overloaded):
        for _ in range(10_001):
            contacts.heard(str(uuid4()), monotonic(), Contact(pending=1))


async def test_a_local_that_holds_events_outlives_invented_sidecars(tmp_path: Path) -> None:
    contacts = Contacts()
    async with (
        open_spool(tmp_path, 1 << 20) as spool,
        open_pool(f"postgresql://nobody@127.0.0.1:{free_port()}/none", 1) as pool,
        open_schema(pool) as schema,
        keep_contacts(pool, schema, contacts, spool, "fab1"),
    ):
        await spool.append([b'{"n":1}'])
        fill(contacts)
        await asyncio.sleep(1.2)


def test_what_could_not_be_written_waits_up_to_the_bound_and_behind_newer_words() -> None:
    contacts, id = Contacts(), str(uuid4())
    contacts.heard(id, 1.0, Contact(pending=1))
    taken = contacts.take()
    contacts.heard(id, 2.0, Contact(pending=2))
    contacts.give_back(taken)
    assert [(word.id, word.at) for word in contacts.take()] == [(id, 2.0)]
    fill(contacts)
    taken = contacts.take()
    fill(contacts)
    contacts.give_back(taken)
    assert len(contacts.take()) == 10_000


class Far:
    """A site at the end of a long way."""

    def __init__(self, contacts: Contacts) -> None:
        self.way_seconds = 0.0
        self.headers: dict[bytes, bytes] = {}

        async def take(scope: Scope, receive: Receive) -> tuple[int, bytes]:
            return 200, b'{"ok":true,"rejected":[]}'

        batches = [Route("/v1/ingest/events:batch", Door(take), methods=["POST"])]
        routes = [*hearing(contacts, batches, "fab1"), *contact_routes(contacts, "fab1")]
        self._app: ASGIApp = build_app(routes, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = dict(scope["headers"])
        await asyncio.sleep(self.way_seconds)
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(self, port=port, lifespan="off", log_config=None))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - it has no event of its own
                await asyncio.sleep(0.01)
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                server.should_exit = True


async def test_a_word_is_of_the_time_at_which_it_was_composed_however_long_its_way_was(tmp_path: Path) -> None:
    contacts = Contacts()
    far = Far(contacts)
    async with far.serving() as url, open_spool(tmp_path, 1 << 20) as spool, open_peer(url) as peer:
        speaker = Speaker(spool, Underway(), "fab1")

        async def say() -> None:
            assert await _is_heard(speaker, peer, 10.0)

        async def send() -> None:
            speaker.hears((await peer.send_batch([b"{}"], 10.0, speaker.headers())).clock)

        begun = monotonic()
        await say()
        [first] = contacts.take()
        assert first.at < begun - 1.0  # it knew no time of the site's yet, and may have been long on its way
        far.way_seconds = 0.3
        for speak in (say, send, say):
            begun = monotonic()
            await speak()
            [word] = contacts.take()
            assert begun - 0.3 < word.at < begun + 0.15
        # The site's clock was set a day ahead, and then back: never later than it was heard, and right with the next word.
        for ahead_seconds in (86_400.0, -86_400.0):
            speaker.hears((read_clock(far.headers[SAID_AT_HEADER.encode()].decode()) or 0.0) + ahead_seconds)
            await say()
            [word] = contacts.take()
            assert word.at <= monotonic() - (0 if ahead_seconds > 0 else 86_000)
            await say()
            assert monotonic() - 1.5 < contacts.take()[0].at < monotonic()


def test_a_clock_that_is_none_is_not_heard() -> None:
    assert [read_clock(text) for text in (None, "", "nan", "inf", "-1", "1e300", "soon", "1\n2")] == [None] * 8
    assert read_clock("1795600000.25") == 1795600000.25
