"""Send now; spool when the other side cannot take it.

Used by the sidecar towards its site, and by `local` towards its database. While the other side is known to be away
nothing waits for it: events go straight into the spool, and replay finds out when it is back.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from fabmon.clock import monotonic
from fabmon.errors import Overloaded, PeerRefused, Unavailable
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import Spool
from fabmon.wire.event import Batch, Receipt, Sink

TOO_LARGE: Final = 413
# For the spool; past that a caller is asked to slow down, and not all the memory is filled.
_MOST_WAITING_BYTES: Final = 64 * 1024 * 1024


class Underway:
    """Events that were taken and are durable nowhere yet: they wait for the other side, or for the spool."""

    def __init__(self) -> None:
        self.count = 0
        self._since: dict[object, float] = {}  # in order

    def begin(self, events: int) -> object:
        request = object()
        self._since[request] = monotonic()
        self.count += events
        return request

    def end(self, request: object, events: int) -> None:
        del self._since[request]
        self.count -= events

    def oldest_age(self) -> float | None:
        oldest = next(iter(self._since.values()), None)
        return None if oldest is None else monotonic() - oldest


def forward(
    send: Sink, spool: Spool, upstream: Upstream, timeout_seconds: float, underway: Underway, *, spool_when_busy: bool
) -> Sink:
    """A sink that answers when its events are durable: behind *send* within the time limit, else in *spool*.

    Raises what the spool raises when neither can take them, or Overloaded when very much waits for it. When *send* is
    Overloaded, the events are spooled if *spool_when_busy*, else the caller is asked to slow down.
    """
    waiting_bytes = 0

    async def sink(batch: Batch) -> Receipt:
        request = underway.begin(len(batch.raws))
        try:
            return await take(batch)
        finally:
            underway.end(request, len(batch.raws))

    async def take(batch: Batch) -> Receipt:
        if upstream.state == "ok":
            begun = monotonic()
            try:
                async with asyncio.timeout(timeout_seconds):
                    receipt = await send(batch)
                if receipt.stored or receipt.duplicates:
                    upstream.took(begun)
                return receipt
            except Overloaded:
                if not spool_when_busy:
                    raise
            except TimeoutError:
                upstream.failed(Unavailable(f"no answer within {timeout_seconds:g} s"))
            except (Unavailable, PeerRefused) as error:
                # Too large together; replay finds the size that passes, the others need not wait for that.
                if not (isinstance(error, PeerRefused) and error.status == TOO_LARGE):
                    upstream.failed(error)
        await keep(batch.raws)
        return Receipt(spooled=len(batch.raws))

    async def keep(raws: Sequence[bytes]) -> None:
        nonlocal waiting_bytes
        size = sum(map(len, raws))
        if waiting_bytes and waiting_bytes + size > _MOST_WAITING_BYTES:
            raise Overloaded(f"{waiting_bytes} bytes of events wait for the disk under the spool")
        waiting_bytes += size
        try:
            await spool.append(raws)
        finally:
            waiting_bytes -= size

    return sink
