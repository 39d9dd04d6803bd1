"""Another fabmon over HTTP: its deadline, and how a batch goes to it."""

import asyncio

import pytest

from fabmon.errors import PeerUnavailable
from fabmon.peer.body import packs_towards
from fabmon.peer.client import open_peer
from tests.fixtures.site import open_site
from tests.fixtures.stubs import stubs


async def test_a_long_deadline_holds_too() -> None:
    loop = asyncio.get_running_loop()
    with stubs({"hangs": b""}) as urls:
        async with open_peer(urls["hangs"]) as peer:
            begun = loop.time()
            # A timer that was rounded up to a whole second of the loop's clock would end 0.8 s late.
            deadline = 5 + (0.2 - begun) % 1
            with pytest.raises(PeerUnavailable, match="gave no answer"):
                await peer.get("/v1/jobs", [], deadline)
            assert loop.time() - begun < deadline + 0.5


async def test_the_deadline_of_a_peer_holds_for_every_question() -> None:
    with stubs({"hangs": b""}) as urls:
        async with open_peer(urls["hangs"], deadline_seconds=0.2) as peer, asyncio.timeout(10):
            with pytest.raises(PeerUnavailable, match=r"within 0\.2 s"):
                await peer.get("/v1/jobs", [], 30)
            with pytest.raises(PeerUnavailable, match=r"within 0\.2 s"):
                await peer.stream("/v1/stream", [], {}, 30)


async def test_of_an_endless_refusal_the_beginning_is_read_and_the_connection_closed() -> None:
    closed = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 x\r\ncontent-length: 1000000000\r\n\r\n" + b"x" * 100_000)
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1")
    async with server, open_peer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as peer:
        status, _, parts = await peer.stream("/v1/stream", [], {}, 30.0)
        async with asyncio.timeout(30):
            assert (status, [len(part) async for part in parts]) == (503, [65536])
            await closed.wait()


async def test_an_answer_that_nobody_reads_is_closed_with_its_parts() -> None:
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nbegun")
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server, open_peer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as peer:
        _, _, parts = await peer.stream("/v1/jobs", [], {}, 30.0)
        await parts.aclose()
        async with asyncio.timeout(30):
            await closed.wait()


async def test_a_refusal_that_stops_half_way_ends_with_the_deadline() -> None:
    with stubs({"half": b"HTTP/1.1 503 x\r\ncontent-length: 10\r\n\r\nhalf"}) as urls:
        async with open_peer(urls["half"]) as peer:
            with pytest.raises(PeerUnavailable, match="gave no answer within"):
                await peer.stream("/v1/stream", [], {}, 0.3)


async def test_a_batch_of_some_size_goes_as_gzip_where_that_is_wanted() -> None:
    raws = [b'{"n":%d,"pad":"%b"}' % (number, b"x" * 80) for number in range(2000)]
    for packs in (True, False):
        async with open_site() as site, open_peer(site.url, packs=packs) as peer:
            for count in (1, 100, 2000):
                assert (await peer.send_batch(raws[:count], 5.0)).status == 200
            assert site.packed == [False, packs, packs]
            assert (len(site.stored), site.numbers) == (2101, set(range(2000)))


async def test_batches_share_a_connection_while_one_is_enough() -> None:
    async with open_site() as site, open_peer(site.url) as peer:
        for number in range(20):
            await peer.send_batch([b'{"n":%d}' % number], 5.0)
        assert (site.connections, len(site.batches)) == (1, 20)
        await asyncio.gather(*(peer.send_batch([b'{"n":%d}' % number], 5.0) for number in range(4)))
        assert site.connections == 4


def test_to_another_machine_batches_are_packed() -> None:
    here = (
        "http://localhost:18000",
        "http://127.0.0.1:1",
        "http://[::1]:18000",
        "http://[::ffff:127.0.0.1]:1",
        "https://127.9.9.9",
    )
    assert [packs_towards(url, "auto") for url in here] == [False] * 5
    assert packs_towards("http://site1:18000", "auto")
    assert packs_towards("http://192.0.2.7", "auto")
    assert packs_towards(here[0], "always")
    assert not packs_towards("http://site1:18000", "never")
