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
from fabmon.errors import PeerUnavailable
from fabmon.logs import Log
from fabmon.peer.client import Peer
from fabmon.spool.spool import Spool
from fabmon.version import __version__
from fabmon.wire.codec import encode
from fabmon.wire.contact import AGE_HEADER, ID_HEADER, PENDING_HEADER, Contact

log = Log("fabmon.relay")

CONTACT_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 5.0
_LAST_WORD_SECONDS: Final = 1.0


def contact_headers(spool: Spool) -> Mapping[str, str]:
    """What goes with each batch."""
    headers = {ID_HEADER: spool.id, PENDING_HEADER: str(spool.pending)}
    age = spool.oldest_pending_age()
    return headers if age is None else {**headers, AGE_HEADER: f"{age:.3f}"}


@asynccontextmanager
async def keep_contact(spool: Spool, peer: Peer, site_id: str) -> AsyncIterator[None]:
    """Tell *peer* every ten seconds, and at once when the spool became empty; and, at the end, that this was the end."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_tell(spool, peer, site_id), name="contact")
        try:
            yield
        finally:
            task.cancel()
    # Only an orderly end comes here; one that still holds events stays known as holding them.
    await _say(spool, peer, site_id, _LAST_WORD_SECONDS, stopped=not spool.pending)


async def _tell(spool: Spool, peer: Peer, site_id: str) -> None:
    told_at, told_holding = float("-inf"), False
    while True:
        holding = bool(spool.pending)
        if monotonic() - told_at >= CONTACT_SECONDS or (told_holding and not holding):
            await _say(spool, peer, site_id, _TIMEOUT_SECONDS)
            told_at, told_holding = monotonic(), holding
        told_holding = told_holding or holding
        await asyncio.sleep(_LOOK_SECONDS)


async def _say(spool: Spool, peer: Peer, site_id: str, timeout_seconds: float, *, stopped: bool = False) -> None:
    contact = Contact(
        pending=spool.pending,
        oldest_pending_age_s=spool.oldest_pending_age(),
        site_id=site_id or None,
        host=platform.node()[:200] or None,
        version=__version__,
        stopped=stopped,
    )
    try:
        answer = await peer.post(f"/v1/ingest/sidecars/{spool.id}", encode(contact), timeout_seconds)
    except PeerUnavailable:
        return  # the events' own way says so, and spools
    if answer.status != 204:
        log.debug("contact.refused", status=answer.status)
