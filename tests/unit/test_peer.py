"""Another fabmon over HTTP: its deadline."""

import asyncio

import pytest

from fabmon.errors import PeerUnavailable
from fabmon.peer.client import open_peer
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
            assert loop.time() - begun < deadline + 0.1
