"""Sends events to a sidecar over HTTP, and keeps them while it cannot be reached.

What is kept is bounded: past the bound the oldest events are dropped and counted. An event may arrive twice (an answer
that got lost), never changed; its idempotency key makes that harmless.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final

import aiohttp

from fabmon.errors import PeerUnavailable
from fabmon.wire.codec import decode_object, encode
from fabmon.wire.event import Event

BATCH_EVENTS: Final = 500
WAITING_LIMIT: Final = 20_000
FLUSH_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 0.5
TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0, connect=3.0)
FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 10.0
EVENTS_AT_FAULT: Final = frozenset({400, 413, 422})  # any other answer says nothing about the events: they are kept

log = logging.getLogger("fabmon.demo")


@asynccontextmanager
async def open_sender(
    url: str,
    *,
    waiting_limit: int = WAITING_LIMIT,
    flush_seconds: float = FLUSH_SECONDS,
    first_delay_seconds: float = FIRST_DELAY_SECONDS,
    close_seconds: float = CLOSE_SECONDS,
) -> AsyncIterator["Sender"]:
    """A sender with its task; leaving sends what still waits, for at most *close_seconds* and without a second try."""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session, asyncio.TaskGroup() as tasks:
        sender = Sender(session, url, waiting_limit, flush_seconds, first_delay_seconds)
        sending = tasks.create_task(sender.run(), name="demo-send")
        yield sender
        sender.close()
        await asyncio.wait([sending], timeout=close_seconds)
        sending.cancel()


class Sender:
    """The events that wait, and what became of the others: accepted, rejected by the sidecar, or dropped here."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        waiting_limit: int,
        flush_seconds: float,
        first_delay_seconds: float,
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._waiting_limit = waiting_limit
        self._flush_seconds = flush_seconds
        self._first_delay_seconds = first_delay_seconds
        self._waiting: deque[Event] = deque()
        self._on_the_way: Sequence[Event] = ()
        self._closing = asyncio.Event()
        self._jitter = Random()
        self.accepted_total = 0
        self.rejected_total = 0
        self.dropped_total = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._on_the_way)

    def offer(self, event: Event) -> None:
        """Take an event; never waits, never raises."""
        self._waiting.append(event)
        self._keep_bound()

    def close(self) -> None:
        self._closing.set()

    async def run(self) -> None:
        """Send until closed; then until nothing waits or a request fails."""
        failures = 0
        while not self._closing.is_set() or (self._waiting and not failures):
            if not self._waiting:
                await pause(self._closing, self._flush_seconds)
                continue
            self._on_the_way = [self._waiting.popleft() for _ in range(min(BATCH_EVENTS, len(self._waiting)))]
            try:
                await self._post(self._on_the_way)
            except (aiohttp.ClientError, OSError, PeerUnavailable) as error:
                self._put_back()
                failures += 1
                delay = self._delay_seconds(failures)
                if failures == 1:
                    self._log_unreachable(error, delay)
                await pause(self._closing, delay)
                continue
            self._on_the_way = ()
            if failures:
                log.info("sidecar.reachable tries=%d waiting=%d dropped=%d", failures, self.waiting, self.dropped_total)
            failures = 0
            if len(self._waiting) < BATCH_EVENTS:
                await pause(self._closing, self._flush_seconds)

    async def _post(self, events: Sequence[Event]) -> None:
        path, body = "/v1/ingest/events:batch", encode(events)
        if len(events) == 1:
            path, body = "/v1/ingest/events", encode(events[0])
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url + path, data=body, headers=headers, allow_redirects=False) as response:
            answer = decode_object(await response.read()) or {}
        if response.status in EVENTS_AT_FAULT:
            self._count(events, len(events), answer.get("detail") or answer.get("rejected"))
            return
        if not 200 <= response.status < 300:
            raise PeerUnavailable(f"status {response.status}")
        rejected = answer.get("rejected")
        self._count(events, len(rejected) if isinstance(rejected, list) else 0, rejected)

    def _count(self, events: Sequence[Event], rejected: int, why: object) -> None:
        self.accepted_total += len(events) - rejected
        self.rejected_total += rejected
        if rejected:
            log.warning("events.rejected sidecar=%s rejected=%d why=%.200s action=dropped", self._url, rejected, why)

    def _put_back(self) -> None:
        self._waiting.extendleft(reversed(self._on_the_way))
        self._on_the_way = ()
        self._keep_bound()

    def _keep_bound(self) -> None:
        while len(self._waiting) > self._waiting_limit:
            self._waiting.popleft()
            self.dropped_total += 1

    def _delay_seconds(self, failures: int) -> float:
        longest = min(LONGEST_DELAY_SECONDS, self._first_delay_seconds * 2.0 ** min(failures - 1, 16))
        return longest * self._jitter.uniform(0.5, 1.0)

    def _log_unreachable(self, error: Exception, delay: float) -> None:
        log.warning(
            "sidecar.unreachable sidecar=%s because=%r action=keeping waiting=%d retry_in_seconds=%.1f",
            self._url,
            str(error) or type(error).__name__,
            self.waiting,
            delay,
        )


async def pause(until: asyncio.Event, seconds: float) -> None:
    """Wait for *seconds*, or until *until* is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until.wait()
