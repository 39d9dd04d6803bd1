"""What `fabmon spool` sends: a backlog, or dead letters once more."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import msgspec

from fabmon.clock import monotonic
from fabmon.errors import FabmonError, StartError
from fabmon.peer.client import Peer, Sent, open_peer
from fabmon.peer.credentials import credentials_of
from fabmon.relay.replay import MOST_BYTES, replay
from fabmon.relay.upstream import Upstream
from fabmon.settings import SidecarSettings, load
from fabmon.spool.limits import Limits
from fabmon.spool.look import View, look, pending
from fabmon.spool.spool import Spool, open_spool

Tell = Callable[[Mapping[str, int]], None]

_BATCH: Final = 500
_TIMEOUT_SECONDS: Final = 30.0
# Time enough to find out that one event alone is refused, or that a site was busy for a moment.
_GIVE_UP_SECONDS: Final = 8.0


async def send_letters(chosen: Sequence[bytes], url: str, taken: set[bytes]) -> None:
    """Send the events of dead letters (lines of `dead.jsonl`); *taken* gets the lines whose events were accepted.

    Raises StartError when the site does not answer, or refuses.
    """
    events = {line: bytes(event) for line in chosen if (event := _event_of(line)) is not None}
    async with _peer(url) as peer:
        for part in _batches(events):
            sent = await _send(peer, [events[line] for line in part])
            refused = {why.index: why for why in sent.rejected}
            for place, line in enumerate(part):
                if place not in refused:
                    taken.add(line)
                else:
                    print(f"refused again: {refused[place].code}: {refused[place].detail}", file=sys.stderr)


async def send_copy(view: View, url: str, tell: Tell | None) -> None:
    """Send what is pending and leave the spool as it is: an event that arrives twice is stored once.

    *tell* gets what became of them; without it, a line is printed. Raises StartError when the site does not answer, or
    refuses some.
    """
    count = refused = 0
    async with _peer(url) as peer:
        for batch in _batches(record.raw for record in pending(view)):
            rejected = (await _send(peer, batch)).rejected
            count += len(batch) - len(rejected)
            refused += len(rejected)
            for why in rejected:
                print(f"refused: {why.code}: {why.detail}", file=sys.stderr)
    # Beside a live sidecar some may be gone because they were delivered meanwhile.
    is_as_it_was = look(view.directory).books.acknowledged == view.books.acknowledged
    unread = view.pending - count - refused if is_as_it_was else 0
    if tell:
        tell({"sent": count, "refused": refused, "unreadable": unread})
    else:
        print(f"{count} sent; the spool is as it was")
    if refused or unread:
        raise StartError(f"{refused} events were refused, {unread} could not be read")


async def drain(directory: Path, url: str, tell: Tell | None) -> None:
    """Send what is pending and acknowledge it; *tell* as above. Raises StartError when something is left, or refused."""
    settings = load(SidecarSettings, os.environ)
    upstream = Upstream(url or settings.local_url)
    # Whoever sends a spool by hand wants what is in it, however old that is.
    limits = Limits(settings.spool_max_bytes)
    async with open_spool(directory, limits) as spool, _peer(url) as peer:

        async def deliver(raws: Sequence[bytes], patience_seconds: float) -> Sent:
            return await peer.send_batch(raws, patience_seconds)

        before = msgspec.structs.replace(spool.books, dropped=dict(spool.books.dropped))
        async with replay(spool, deliver, upstream, share=1.0):
            await _until_it_stays(spool, upstream)
        delivered, dead = spool.books.delivered - before.delivered, spool.books.dead - before.dead
        unread = spool.books.set_aside - before.set_aside
        if tell:
            tell({"delivered": delivered, "dead_letters": dead, "set_aside": unread, "left": spool.pending})
        else:
            print(f"{delivered} delivered, {dead} dead letters" + (f", {unread} set aside" if unread else ""))
        if unread:
            print(f"fabmon: {unread} events could not be read; what is left of them is in set-aside", file=sys.stderr)
        if spool.pending:
            left = f"{spool.pending} events left: {upstream.why}"
            raise StartError(left)
        if dead:
            raise StartError(f"{dead} events were refused; see `fabmon spool dead ls`")
        if unread:
            raise StartError(f"{unread} events are set aside")


async def _until_it_stays(spool: Spool, upstream: Upstream) -> None:
    """Until nothing is pending, or the site has taken nothing for a while although it was asked again."""
    pending, said = spool.pending, ""
    paused_at = tried_until = float("inf")
    while spool.pending and monotonic() < tried_until:
        await asyncio.sleep(0.05)
        if upstream.pause is None or spool.pending < pending:
            pending, paused_at, tried_until = spool.pending, float("inf"), float("inf")
            continue
        paused_at = min(paused_at, monotonic())
        tried_until = max(paused_at, upstream.not_before) + _GIVE_UP_SECONDS
        if upstream.why != said:
            said = upstream.why
            print(f"fabmon: {said}; trying again", file=sys.stderr)


def _peer(url: str) -> AbstractAsyncContextManager[Peer]:
    settings = load(SidecarSettings, os.environ)
    return open_peer(url or settings.local_url, credentials_of(settings))


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """As many at a time as a site takes."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) >= _BATCH or size + len(line) > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch


async def _send(peer: Peer, raws: Sequence[bytes]) -> Sent:
    try:
        return await peer.send_batch(raws, _TIMEOUT_SECONDS)
    except FabmonError as error:
        raise StartError(str(error)) from None


class _Letter(msgspec.Struct):
    event: msgspec.Raw


def _event_of(line: bytes) -> msgspec.Raw | None:
    try:
        return msgspec.json.decode(line, type=_Letter).event
    except msgspec.MsgspecError:
        return None
