"""Finding out that the other side is back, where no event can: none is pending, or the one under way hangs.

It is asked by a batch of no events: that goes the events' own way (address, token, body), and stores nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fabmon.clock import monotonic
from fabmon.errors import BrokenOff, PeerRefused, PeerUnavailable, Unavailable
from fabmon.logs import Log
from fabmon.peer.client import Sent
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import Spool
from fabmon.tasks import beside

log = Log("fabmon.relay")

Deliver = Callable[[Sequence[bytes], float], Awaitable[Sent]]
"""Makes events durable on the other side within so many seconds; says which of them it refuses for good, by place.

Of no events: asks whether the other side is there and would read them; it may refuse the next ones all the same.
"""

_LOOK_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 1.0
# What was only slow is answered in this time, once the other side answers again.
_GRACE_SECONDS: Final = 0.25
# So many questions in a row have to be left open before a batch is broken off: to send it again costs more than one event.
_SILENT_FOR_BATCH: Final = 3
# A busy site that is silent now and then gets its time: not two batches are broken off within so long.
_BATCHES_APART_SECONDS: Final = 60.0


class _Delivery:
    def __init__(self, events: int, silent: int) -> None:
        self.is_batch = events > 1
        self.begun = monotonic()
        self.deadline = asyncio.timeout(None)
        self.silent = silent  # so often in a row there was no answer, to a question beside it or to the delivery before


class Probe:
    def __init__(self, deliver: Deliver, upstream: Upstream, spool: Spool) -> None:
        self._deliver = deliver
        self._upstream = upstream
        self._spool = spool
        self._delivery: _Delivery | None = None
        self._silent = 0  # 1 when the last delivery got no answer
        self._broke_off = False  # an event alone: not again until one was answered
        self._batch_broken_off_at = float("-inf")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask as long as the context is open, whenever there is a doubt."""
        async with beside("probe", self._run()):
            yield

    @asynccontextmanager
    async def delivery(self, events: int) -> AsyncIterator[None]:
        """Around one delivery: BrokenOff when it hangs, and whatever it hung in is over."""
        delivery = self._delivery = _Delivery(events, self._silent)
        try:
            async with delivery.deadline:
                yield
        except TimeoutError:
            raise BrokenOff(f"{self._upstream.name} was silent; it answers again") from None
        except (PeerRefused, PeerUnavailable) as error:
            self._answered(is_silent=_is_silence(error))
            raise
        finally:
            self._delivery = None
        self._answered(is_silent=False)

    def _answered(self, *, is_silent: bool) -> None:
        self._silent = int(is_silent)
        self._broke_off &= is_silent

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._upstream.asked_to_wait_seconds():
                continue
            if self._delivery is not None:
                if monotonic() - self._delivery.begun > _ANSWER_SECONDS:
                    await self._ask_beside(self._delivery)
            elif self._upstream.state != "ok" and (not self._spool.pending or self._upstream.held):
                await self._ask()

    async def _ask(self) -> None:
        """No event is tried: none is pending, because the spool could not take it either, or the backlog is held."""
        begun = monotonic()
        try:
            await self._deliver([], _ANSWER_SECONDS)
        except (Unavailable, PeerRefused) as error:
            self._upstream.failed(error)
            return
        self._upstream.is_back(begun)

    async def _ask_beside(self, delivery: _Delivery) -> None:
        try:
            await self._deliver([], _ANSWER_SECONDS)
        except (Unavailable, PeerRefused) as error:
            if _is_silence(error):
                delivery.silent += 1
                return
        silent, delivery.silent = delivery.silent, 0
        if silent < (_SILENT_FOR_BATCH if delivery.is_batch else 1) or not self._may_break_off(delivery):
            return
        await asyncio.sleep(_GRACE_SECONDS)
        if self._delivery is delivery:
            log.info("delivery.broken_off", upstream=self._upstream.name, action="sending it again")
            delivery.deadline.reschedule(0.0)
            if delivery.is_batch:
                self._batch_broken_off_at = monotonic()
            else:
                self._broke_off = True

    def _may_break_off(self, delivery: _Delivery) -> bool:
        if delivery.is_batch:
            return monotonic() - self._batch_broken_off_at > _BATCHES_APART_SECONDS
        return not self._broke_off


def _is_silence(error: Exception) -> bool:
    """Whether there was no answer at all; a refusal is one."""
    return not isinstance(error, PeerRefused) and getattr(error, "status", None) is None
