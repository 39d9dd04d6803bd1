"""The spool's way out: oldest first, acknowledged only after the other side has stored it.

An event that the other side refuses for good goes to the dead letters, its neighbours arrive; where the answer refuses the
request, it is the event's fault if others pass between one refusal and the next. When everything is refused (an expired
token, a wrong URL), or most of a backlog (a wrong site id, a clock that is off), nothing is given up: the spool waits until
that is mended, or until the other side takes a fresh event, which shows that it is the backlog's fault.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from fabmon.clock import monotonic, now
from fabmon.errors import (
    BrokenOff,
    FabmonError,
    Overloaded,
    PeerRefused,
    PeerUnavailable,
    SpoolFailed,
    SpoolFull,
    Unavailable,
)
from fabmon.logs import Log
from fabmon.peer.client import Sent
from fabmon.relay.forward import TOO_LARGE
from fabmon.relay.pace import LONGEST_PAUSE_SECONDS, PROBE_SECONDS, Pace
from fabmon.relay.probe import Deliver, Probe
from fabmon.relay.upstream import Upstream
from fabmon.spool.dead import Letter
from fabmon.spool.frame import Record
from fabmon.spool.spool import Spool
from fabmon.tasks import beside
from fabmon.wire.event import BATCH_LIMIT_BYTES, BATCH_LIMIT_EVENTS, Rejection

log = Log("fabmon.relay")

# A batch well below what the other side must take (its brackets and commas included).
MOST_BYTES: Final = 4 * 1024 * 1024
assert MOST_BYTES < BATCH_LIMIT_BYTES - 2 * BATCH_LIMIT_EVENTS  # noqa: S101 - of two constants
# Refusing the larger part of at least so many is no longer a matter of single events.
MANY_EVENTS: Final = 10
# One of so many that come next is tried beside an event that was refused.
_NEXT_EVENTS: Final = 100
# A defect of the other side that one event sets off; before that it may be one that passes.
_POISON_STATUS: Final = 500
_POISON_TRIES: Final = 5
# What is never said of an event: the token is wrong, the URL, or the form.
_OF_THE_WAY: Final = frozenset({401, 404, 405, 415})
# So often another event has to pass between refusals: of two servers behind one address it may be one that refuses.
_PROOFS: Final = 3


@asynccontextmanager
async def replay(spool: Spool, deliver: Deliver, upstream: Upstream, share: float) -> AsyncIterator[None]:
    """Drain *spool* through *deliver* as long as the context is open.

    While fresh events come, the backlog is under way for that *share* of the time at most.
    """
    probe = Probe(deliver, upstream, spool)
    async with probe.running(), beside("replay", _Replay(spool, deliver, upstream, share, probe).run()):
        yield


class _Replay:
    def __init__(self, spool: Spool, deliver: Deliver, upstream: Upstream, share: float, probe: Probe) -> None:
        self._spool = spool
        self._deliver = deliver
        self._probe = probe
        self._upstream = upstream
        self._share = share
        self._pace = Pace()
        self._tries: dict[int, tuple[int, datetime]] = {}  # failed so far, by sequence: how often, first when
        self._held_since = float("inf")
        self._stuck = (0, 0.0)  # the event that is refused though it is alone, and since when
        self._too_few = (0, 0)  # the first of a batch that was too small to judge by, and its size

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._spool.wait()
            except TimeoutError:
                self._upstream.held = self._upstream.stuck = ""
                await self._spool.tidy()
                continue
            await asyncio.sleep(self._upstream.asked_to_wait_seconds())
            if self._upstream.state != "ok":
                self._pace.doubt()
            try:
                await self._deliver_some()
                self._upstream.stuck = ""
            except (SpoolFailed, SpoolFull) as error:
                self._upstream.stuck = str(error)
                log.error("replay.spool_failed", reason=str(error), retry_in_seconds=PROBE_SECONDS)
                await asyncio.sleep(PROBE_SECONDS)
            except BrokenOff:
                self._pace.max_events = 1  # and at once
            except (Unavailable, PeerRefused) as error:
                if not isinstance(error, Overloaded):
                    self._upstream.failed(error)
                self._too_few = (0, 0)  # it begins with a single event again, which is no measure
                pause_seconds = self._pace.failed(error)
                await asyncio.sleep(self._upstream.asked_to_wait_seconds() or pause_seconds)

    async def _deliver_some(self) -> None:
        begun = monotonic()
        records = await self._spool.read(self._pace.max_events, MOST_BYTES)
        if not records:
            return
        try:
            sent = await self._send(records)
        except PeerRefused as error:
            if error.status == TOO_LARGE and len(records) > 1:
                self._pace.too_large(len(records))
                return
            if len(records) > 1 or not await self._refused_for_itself(records[0], error):
                raise
            return
        except PeerUnavailable as error:
            tries, _ = self._tries[records[0].seq]
            is_poison = len(records) == 1 and error.status == _POISON_STATUS and tries >= _POISON_TRIES
            if not is_poison or not await self._refused_for_itself(records[0], error):
                raise
            return
        self._upstream.is_back(begun)
        rejected = {why.index: why for why in sent.rejected}
        if await self._to_be_held(records, rejected):
            return
        await self._settle(records, rejected, sent.status)
        self._pace.delivered()
        if self._upstream.took_at >= begun:
            # Fresh events go first.
            await asyncio.sleep((monotonic() - begun) * (1 / self._share - 1))

    async def _send(self, records: Sequence[Record]) -> Sent:
        try:
            async with self._probe.delivery(len(records)):
                return await self._deliver([record.raw for record in records], self._pace.patience_seconds)
        except FabmonError:
            self._count_failure(records)
            raise

    async def _settle(self, records: Sequence[Record], rejected: Mapping[int, Rejection], status: int | None) -> None:
        letters = []
        for place, why in sorted(rejected.items()):
            tries, first_at = self._tries.get(records[place].seq, (0, now()))
            letters.append(Letter(records[place], why.code, why.detail, status, tries + 1, first_at, now()))
        try:
            await self._spool.acknowledge(records[-1].seq, letters)
        except (SpoolFailed, SpoolFull):
            # Fewer dead letters at a time may find room where all of them do not.
            self._pace.too_large(len(records))
            raise
        self._tries = {seq: tried for seq, tried in self._tries.items() if seq > records[-1].seq}
        if letters:
            log.warning("replay.refused", events=len(letters), first_code=letters[0].code, action="dead letters")

    async def _to_be_held(self, records: Sequence[Record], rejected: Mapping[int, Rejection]) -> bool:
        """Whether so many were refused that the fault may not be theirs; waits a while then."""
        count = len(records)
        many = count >= MANY_EVENTS or self._spool.pending >= MANY_EVENTS
        if not many or 2 * len(rejected) <= count or self._took_since_held():
            self._upstream.held, self._held_since = "", float("inf")
            return False
        if count < MANY_EVENTS and self._too_few < (records[0].seq, count):
            # Too few to judge by; if no more than these travel together, they have to do.
            self._too_few = (records[0].seq, count)
            self._pace.delivered()
            return True
        why = next(iter(rejected.values()))
        reason = f"{len(rejected)} of {count} events refused, the first: {why.code}: {why.detail}"
        if not self._upstream.held:
            self._held_since = monotonic()
            log.error("replay.held", upstream=self._upstream.name, reason=reason, action="waiting, nothing given up")
        self._upstream.held = reason
        await self._pause_while_held()
        return True

    async def _pause_while_held(self) -> None:
        """Up to half a minute, less when the other side takes a fresh event."""
        begun = monotonic()
        while monotonic() - begun < min(LONGEST_PAUSE_SECONDS, 1.0 + (begun - self._held_since)):
            if self._took_since_held():
                return
            await asyncio.sleep(PROBE_SECONDS / 4)

    def _took_since_held(self) -> bool:
        return self._upstream.took_asked_at > self._held_since

    async def _refused_for_itself(self, record: Record, error: PeerRefused | PeerUnavailable) -> bool:
        """Whether the other side refuses *record* and takes another: then it is a dead letter, and the next ones go on."""
        if error.status in _OF_THE_WAY:
            return False
        if self._stuck[0] != record.seq:
            self._stuck = (record.seq, monotonic())
        for _ in range(_PROOFS):
            if not await self._another_passes(error.status):
                return False
            self._upstream.is_back(monotonic())
            self._pace.delivered()
            # Again: what was refused in general may have been mended before the other was tried. And not once by turns with
            # the other, or two servers behind one address that take turns would each get the same one every time.
            for _ in range(random.randint(2, 3)):  # noqa: S311 - spread, not secrecy
                try:
                    sent = await self._send([record])
                except (PeerRefused, PeerUnavailable) as again:
                    if again.status != error.status:
                        raise
                    error, self._stuck = again, (record.seq, monotonic())
                else:
                    await self._settle([record], {why.index: why for why in sent.rejected}, sent.status)
                    return True
        code = "body_too_large" if error.status == TOO_LARGE else "refused"
        await self._settle([record], {0: Rejection(0, code, str(error))}, error.status)
        return True

    async def _another_passes(self, status: int | None) -> bool:
        if self._upstream.took_asked_at > self._stuck[1]:
            return True
        following = (await self._spool.read(_NEXT_EVENTS, MOST_BYTES))[1:]
        if not following:
            return False
        # Any other may be refused for itself as well: the next time it is another one.
        other = random.choice(following)  # noqa: S311 - spread, not secrecy
        if status == TOO_LARGE:
            other = min(following, key=lambda each: len(each.raw))
        try:
            async with self._probe.delivery(1):
                return not (await self._deliver([other.raw], self._pace.patience_seconds)).rejected
        except (PeerRefused, PeerUnavailable):
            return False

    def _count_failure(self, records: Sequence[Record]) -> None:
        for record in records:
            tries, first_at = self._tries.get(record.seq, (0, now()))
            self._tries[record.seq] = (tries + 1, first_at)
