"""Send now; spool when the other side cannot take it.

Used by the sidecar towards its site, and by `local` towards its database. While the other side is known to be away
nothing waits for it: events go straight into the spool, and replay finds out when it is back.
"""

import asyncio
from typing import Literal

import msgspec

from fabmon.clock import monotonic
from fabmon.errors import Overloaded, PeerRefused, Unavailable
from fabmon.logs import Log
from fabmon.spool.spool import Spool
from fabmon.wire.event import Batch, Receipt, Sink

log = Log("fabmon.relay")


class Upstream(msgspec.Struct):
    """Whether the other side takes events: `away` may end by itself, `refusing` needs a person (a token, a wrong URL)."""

    name: str
    state: Literal["ok", "away", "refusing"] = "ok"
    reason: str = ""
    since: float = msgspec.field(default_factory=monotonic)

    def is_back(self) -> None:
        if self.state != "ok":
            log.info("upstream.back", upstream=self.name, away_seconds=round(monotonic() - self.since, 1))
        self._become("ok", "")

    def failed(self, error: Exception) -> None:
        state: Literal["away", "refusing"] = "refusing" if isinstance(error, PeerRefused) else "away"
        if self.state != state:
            log.warning("upstream.lost", upstream=self.name, state=state, reason=str(error), action="spooling")
        self._become(state, str(error))

    def _become(self, state: Literal["ok", "away", "refusing"], reason: str) -> None:
        if self.state != state:
            self.since = monotonic()
        self.state, self.reason = state, reason


def forward(send: Sink, spool: Spool, upstream: Upstream, timeout_seconds: float, *, spool_when_busy: bool) -> Sink:
    """A sink that answers when its events are durable: behind *send* within the time limit, else in *spool*.

    Raises what the spool raises when neither can take them. When *send* is Overloaded, the events are spooled if
    *spool_when_busy*, else the caller is asked to slow down.
    """

    async def sink(batch: Batch) -> Receipt:
        if upstream.state == "ok":
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await send(batch)
            except Overloaded:
                if not spool_when_busy:
                    raise
            except TimeoutError:
                upstream.failed(Unavailable(f"no answer within {timeout_seconds:g} s"))
            except (Unavailable, PeerRefused) as error:
                upstream.failed(error)
        await spool.append(batch.raws)
        return Receipt(spooled=len(batch.raws))

    return sink
