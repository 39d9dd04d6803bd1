"""Send now; spool when the other side cannot take it.

Used by the sidecar towards its site, and by `local` towards its database. While the other side is known to be away
nothing waits for it: events go straight into the spool, and replay finds out when it is back.
"""

import asyncio
from typing import Final, Literal

import msgspec

from fabmon.clock import monotonic
from fabmon.errors import Overloaded, PeerRefused, Unavailable
from fabmon.logs import Log
from fabmon.spool.spool import Spool
from fabmon.wire.event import Batch, Receipt, Sink

log = Log("fabmon.relay")

TOO_LARGE: Final = 413

State = Literal["ok", "away", "refusing"]


class Upstream(msgspec.Struct):
    """Whether the other side takes events: `away` may end by itself, `refusing` needs a person (a token, a wrong URL).

    `held` is why the backlog waits although the other side takes events: it refuses most of what waits.
    """

    name: str
    state: State = "ok"
    reason: str = ""
    held: str = ""
    since: float = msgspec.field(default_factory=monotonic)
    took_at: float = float("-inf")  # when it last took a fresh event

    @property
    def pause(self) -> Literal["away", "refusing", "held"] | None:
        """Why the backlog is not sent now."""
        return self.state if self.state != "ok" else "held" if self.held else None

    def is_back(self) -> None:
        if self.state != "ok":
            log.info("upstream.back", upstream=self.name, away_seconds=round(monotonic() - self.since, 1))
        self._become("ok", "")

    def took(self) -> None:
        self.took_at = monotonic()

    def failed(self, error: Exception) -> None:
        state: State = "refusing" if isinstance(error, PeerRefused) else "away"
        if self.state != state:
            log.warning("upstream.lost", upstream=self.name, state=state, reason=str(error), action="spooling")
        self._become(state, str(error))

    def _become(self, state: State, reason: str) -> None:
        if self.state != state:
            self.since = monotonic()
        self.state, self.reason = state, reason


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

    Raises what the spool raises when neither can take them. When *send* is Overloaded, the events are spooled if
    *spool_when_busy*, else the caller is asked to slow down.
    """

    async def sink(batch: Batch) -> Receipt:
        request = underway.begin(len(batch.raws))
        try:
            return await take(batch)
        finally:
            underway.end(request, len(batch.raws))

    async def take(batch: Batch) -> Receipt:
        if upstream.state == "ok":
            try:
                async with asyncio.timeout(timeout_seconds):
                    receipt = await send(batch)
                if receipt.stored or receipt.duplicates:
                    upstream.took()
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
        await spool.append(batch.raws)
        return Receipt(spooled=len(batch.raws))

    return sink
