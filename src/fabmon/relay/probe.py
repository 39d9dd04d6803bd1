"""Finding out that the other side is back, where no event can: none is pending, or the one under way hangs.

It is asked by a batch of no events: that goes the events' own way (address, token, body), and stores nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fabmon.clock import monotonic
from fabmon.errors import BrokenOff, PeerRefused, Unavailable
from fabmon.logs import Log
from fabmon.peer.client import Sent
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import Spool
from fabmon.tasks import beside

log = Log("fabmon.relay")

Deliver = Callable[[Sequence[bytes], float], Awaitable[Sent]]
"""Makes events durable on the other side within so many seconds; says which of them it refuses for good, by place.

Of no events: raises what it would raise for some.
"""

_LOOK_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 1.0
# What was only slow is answered in this time, once the other side answers again.
_GRACE_SECONDS: Final = 0.25


class Probe:
    def __init__(self, deliver: Deliver, upstream: Upstream, spool: Spool) -> None:
        self._deliver = deliver
        self._upstream = upstream
        self._spool = spool
        self._delivery: asyncio.Timeout | None = None
        self._begun = 0.0
        self._was_silent = False
        self._broke_off = False  # once between two answers: who is slow, and silent now and then, must get its time

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask as long as the context is open, whenever there is a doubt."""
        async with beside("probe", self._run()):
            yield

    @asynccontextmanager
    async def delivery(self) -> AsyncIterator[None]:
        """Around one delivery: BrokenOff when it hangs, and whatever it hung in is over."""
        self._begun = monotonic()
        try:
            async with asyncio.timeout(None) as self._delivery:
                yield
        except TimeoutError:
            raise BrokenOff(f"{self._upstream.name} was silent; it answers again") from None
        finally:
            self._delivery = None
        self._was_silent = self._broke_off = False

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._upstream.asked_to_wait_seconds():
                continue
            if self._delivery is not None:
                if monotonic() - self._begun > _ANSWER_SECONDS:
                    await self._ask_beside(self._delivery)
            elif self._upstream.state != "ok" and not self._spool.pending:
                await self._ask()

    async def _ask(self) -> None:
        """Nothing is pending: the spool could not take it either, or it was given up."""
        try:
            await self._deliver([], _ANSWER_SECONDS)
        except (Unavailable, PeerRefused) as error:
            self._upstream.failed(error)
            return
        self._upstream.is_back()

    async def _ask_beside(self, delivery: asyncio.Timeout) -> None:
        try:
            await self._deliver([], _ANSWER_SECONDS)
        except (Unavailable, PeerRefused):
            self._was_silent = True
            return
        if not self._was_silent or self._broke_off:
            return
        await asyncio.sleep(_GRACE_SECONDS)
        if self._delivery is delivery:
            log.info("delivery.broken_off", upstream=self._upstream.name, action="sending it again")
            self._broke_off, self._was_silent = True, False
            delivery.reschedule(0.0)
