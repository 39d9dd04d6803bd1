"""Whether each site of central is ready, for /metrics: asked by one task, so that an end is seen without a question."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from fabmon.errors import PeerUnavailable
from fabmon.metrics import SITE_UP
from fabmon.peer.client import Peer
from fabmon.tasks import beside

EVERY_SECONDS: Final = 15.0
_SECONDS: Final = 5.0


@asynccontextmanager
async def probe_sites(peers: Mapping[str, Peer]) -> AsyncIterator[None]:
    """Ask every site at once and then every fifteen seconds, as long as the context is open."""
    async with beside("probe", _probe_always(peers)):
        yield


async def _probe_always(peers: Mapping[str, Peer]) -> None:
    while True:
        async with asyncio.TaskGroup() as tasks:
            asked = {name: tasks.create_task(_is_ready(peer), name=f"probe-{name}") for name, peer in peers.items()}
        SITE_UP.clear()  # of a site that is configured no longer nothing is said
        for name, task in asked.items():
            SITE_UP.labels(name).set(task.result())
        await asyncio.sleep(EVERY_SECONDS)


async def _is_ready(peer: Peer) -> bool:
    try:
        return (await peer.get("/readyz", [], _SECONDS)).status == 200
    except PeerUnavailable:
        return False
