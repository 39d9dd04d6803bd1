"""From the store's change feed to the hub: one reader of the database per process, however many read the stream.

Our own commits wake it at once, and LISTEN (wakeups.py) for those of other processes; a slow poll finds what that misses.
It goes on from its last position, so an outage of the database delays events and loses none.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fabmon.clock import monotonic, now
from fabmon.errors import StoreUnavailable
from fabmon.logs import Log
from fabmon.metrics import FEED_LAG
from fabmon.store.changes import read_changes, read_head
from fabmon.store.pool import Pool
from fabmon.store.schema import Schema
from fabmon.stream.hub import HEARTBEAT_SECONDS, Hub
from fabmon.tasks import beside

log = Log("fabmon.stream")

POLL_SECONDS: Final = 0.5
PAGE: Final = 1000
# However many commits there are, the feed is read so often at most, and what they brought travels together.
GATHER_SECONDS: Final = 0.025


@asynccontextmanager
async def follow(pool: Pool, schema: Schema, hub: Hub, wake: asyncio.Event) -> AsyncIterator[None]:
    """Feed *hub* as long as the context is open; set *wake* after a commit."""
    async with beside("follow", _run(pool, schema, hub, wake)), beside("stream-beat", _beat(hub)):
        try:
            yield
        finally:
            hub.close()


async def _run(pool: Pool, schema: Schema, hub: Hub, wake: asyncio.Event) -> None:
    read_at = monotonic()
    while True:
        # Without a reader nothing is read: the feed costs the database nothing, and is joined where it then stands.
        if not hub.wanted.is_set():
            FEED_LAG.set(0)
            await hub.wanted.wait()
            read_at = monotonic()
        wake.clear()
        begun = monotonic()
        try:
            if hub.position is None:
                await schema.must_match()
                hub.go_live(await read_head(pool))
            position = hub.position
            changes = await read_changes(pool, position, PAGE) if position is not None else []
        except StoreUnavailable as error:
            log.warning("stream.waiting", reason=str(error), action="trying again")
            FEED_LAG.set(monotonic() - read_at)
            await asyncio.sleep(POLL_SECONDS)
            continue
        read_at = monotonic()
        FEED_LAG.set(max((now() - changes[0].event["stored_at"]).total_seconds(), 0.0) if changes else 0.0)
        hub.publish(changes)
        if len(changes) < PAGE:
            await _next_turn(wake)
            await asyncio.sleep(begun + GATHER_SECONDS - monotonic())


async def _next_turn(wake: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(POLL_SECONDS):
            await wake.wait()
    except TimeoutError:
        pass


async def _beat(hub: Hub) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        hub.beat()
