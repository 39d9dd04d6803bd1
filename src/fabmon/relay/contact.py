"""The sidecar tells its site how many events it holds back, and how old the oldest is: with each batch, and when idle.

The site's lists say from that up to which time they are complete (`complete_until`), so "I hold nothing any more" is told
at once.
"""

import asyncio
import platform
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from fabmon.clock import monotonic
from fabmon.errors import PeerRefused, PeerUnavailable, Unavailable
from fabmon.logs import Log
from fabmon.peer.client import Peer
from fabmon.relay.forward import Underway
from fabmon.relay.probe import Deliver as Ask
from fabmon.relay.upstream import Upstream
from fabmon.spool.spool import Spool
from fabmon.tasks import beside
from fabmon.version import __version__
from fabmon.wire.codec import encode
from fabmon.wire.contact import AGE_HEADER, ID_HEADER, PENDING_HEADER, SAID_AT_HEADER, Contact

log = Log("fabmon.relay")

CONTACT_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 2.0
_LAST_WORD_SECONDS: Final = 1.0


class Speaker:
    """What the sidecar says of what it holds back: the events in its spool, and those that are under way."""

    def __init__(self, spool: Spool, underway: Underway, site_id: str) -> None:
        self.id = spool.id
        self.said_pending = 0  # the last time
        self._spool = spool
        self._underway = underway
        self._site_id = site_id
        self._clock: tuple[float, float] | None = None  # the site's, and ours when we heard it

    def hears(self, clock: float | None) -> None:
        """The site answered, and said its time."""
        if clock is not None:
            self._clock = clock, monotonic()

    def said_at(self) -> Mapping[str, str]:
        """When a word is composed, in the site's time or a little before: for a header that goes with it."""
        if self._clock is None:
            return {}
        clock, heard_at = self._clock
        return {SAID_AT_HEADER: f"{clock + monotonic() - heard_at:.6f}"}

    @property
    def pending(self) -> int:
        return self._spool.pending + self._underway.count

    def headers(self, own: int = 0) -> Mapping[str, str]:
        """What goes with a batch of *own* fresh events: once the site has heard it, it has these."""
        said_at = self.said_at()
        self.said_pending = max(0, self.pending - own)
        headers = {ID_HEADER: self.id, PENDING_HEADER: str(self.said_pending), **said_at}
        age = self._oldest_age() if self.said_pending else None
        return headers if age is None else {**headers, AGE_HEADER: f"{age:.3f}"}

    def word(self, *, last: bool = False) -> Contact:
        """What is said without a batch; *last*: before an orderly end."""
        self.said_pending = self.pending
        return Contact(
            pending=self.pending,
            oldest_pending_age_s=self._oldest_age(),
            site_id=self._site_id or None,
            host=platform.node()[:200] or None,
            version=__version__,
            # One that still holds events stays known as holding them.
            stopped=last and not self.pending,
        )

    def _oldest_age(self) -> float | None:
        ages = (self._spool.oldest_pending_age(), self._underway.oldest_age())
        return max((age for age in ages if age is not None), default=None)


@asynccontextmanager
async def keep_contact(speaker: Speaker, peer: Peer, upstream: Upstream, ask: Ask) -> AsyncIterator[None]:
    """Tell *peer* every ten seconds, and at once when nothing is held any more; and, at the end, that this was the end.

    When it does not hear, *ask* tries the events' own way; *upstream* knows then, also where no event has been sent yet.
    """
    async with beside("contact", _tell(speaker, peer, upstream, ask)):
        yield
    await _is_heard(speaker, peer, _LAST_WORD_SECONDS, last=True)


async def _tell(speaker: Speaker, peer: Peer, upstream: Upstream, ask: Ask) -> None:
    told_at = float("-inf")
    while True:
        if monotonic() - told_at >= CONTACT_SECONDS or (speaker.said_pending and not speaker.pending):
            if not await _is_heard(speaker, peer, _TIMEOUT_SECONDS) and upstream.state == "ok":
                await _ask(upstream, ask)
            told_at = monotonic()
        await asyncio.sleep(_LOOK_SECONDS)


async def _ask(upstream: Upstream, ask: Ask) -> None:
    """A token may be good for events alone, and a site may have no ear for sidecars: the events' way decides."""
    begun = monotonic()
    try:
        await ask([], _TIMEOUT_SECONDS)
    except (Unavailable, PeerRefused) as error:
        if upstream.state == "ok" and upstream.answered_at < begun:
            upstream.failed(error)


async def _is_heard(speaker: Speaker, peer: Peer, timeout_seconds: float, *, last: bool = False) -> bool:
    said_at, word = speaker.said_at(), encode(speaker.word(last=last))
    try:
        answer = await peer.post(f"/v1/ingest/sidecars/{speaker.id}", word, timeout_seconds, said_at)
    except PeerUnavailable:
        return False
    speaker.hears(answer.clock)
    if answer.status != 204:
        log.debug("contact.refused", status=answer.status)
    return answer.status == 204
