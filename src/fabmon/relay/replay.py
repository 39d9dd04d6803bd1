"""The spool's way out: oldest first, acknowledged only after the other side has stored it.

An event that the other side refuses for good goes to the dead letters, its neighbours arrive. When everything is refused
(an expired token, a wrong URL), nothing is given up: the spool waits until that is mended.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fabmon.errors import PeerRefused, Unavailable
from fabmon.logs import Log
from fabmon.peer.backoff import full_jitter
from fabmon.relay.forward import Upstream
from fabmon.spool.frame import Record
from fabmon.spool.spool import Spool
from fabmon.wire.event import Rejection

log = Log("fabmon.relay")

MOST_EVENTS: Final = 1000
# The probe that finds the other side back, at the latest this long after it is.
LONGEST_PAUSE_SECONDS: Final = 1.0

Deliver = Callable[[Sequence[bytes]], Awaitable[Sequence[Rejection]]]
"""Makes events durable on the other side and returns those that it refuses for good, by place."""


@asynccontextmanager
async def replay(spool: Spool, deliver: Deliver, upstream: Upstream) -> AsyncIterator[None]:
    """Drain *spool* through *deliver* as long as the context is open."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_drain(spool, deliver, upstream), name="replay")
        try:
            yield
        finally:
            task.cancel()


async def _drain(spool: Spool, deliver: Deliver, upstream: Upstream) -> None:
    delays = full_jitter(most_seconds=LONGEST_PAUSE_SECONDS)
    while True:
        try:
            async with asyncio.timeout(LONGEST_PAUSE_SECONDS):
                await spool.wait()
        except TimeoutError:
            # Nothing to probe with (the spool could not take the event either): the next event is the probe.
            upstream.is_back()
            continue
        try:
            await _deliver_some(spool, deliver)
        except (Unavailable, PeerRefused) as error:
            upstream.failed(error)
            delay = next(delays) if isinstance(error, Unavailable) else LONGEST_PAUSE_SECONDS
            await asyncio.sleep(delay)
        else:
            delays = full_jitter(most_seconds=LONGEST_PAUSE_SECONDS)
            upstream.is_back()


async def _deliver_some(spool: Spool, deliver: Deliver) -> None:
    records = await spool.read(MOST_EVENTS)
    if not records:
        log.error("spool.nothing_readable", directory=spool.directory, events=spool.pending, action="passed over")
        await spool.acknowledge(spool.last_seq)
        return
    rejected = await deliver([record.raw for record in records])
    if rejected:
        await _bury(spool, records, rejected)
    await spool.acknowledge(records[-1].seq)


async def _bury(spool: Spool, records: Sequence[Record], rejected: Sequence[Rejection]) -> None:
    await spool.bury([(records[why.index], why) for why in rejected])
    log.warning("replay.refused", events=len(rejected), first_code=rejected[0].code, action="dead letters")
