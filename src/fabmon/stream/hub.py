"""Fan-out: what the feed brought goes to every reader; one that falls behind is cut off, and resumes by its id.

Changes travel in bursts, as they were read. An event is encoded once and a question asked once, however many readers there
are; a reader gets what waits for it in one write.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from fabmon.errors import Overloaded
from fabmon.metrics import STREAM_READERS
from fabmon.store.changes import Change, Position
from fabmon.wire.codec import encode

HEARTBEAT_SECONDS: Final = 15.0
QUEUE_CHANGES: Final = 10_000
QUEUE_BYTES: Final = 64 * 1024 * 1024


class Filter(msgspec.Struct, frozen=True):
    """A test of one event, and what was asked for: readers that ask the same share the answer."""

    asked: tuple[tuple[str, str], ...]
    wants: Callable[[dict[str, Any]], bool]


class Burst:
    """Changes that follow one another without a gap; at least one."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.first, self.last = changes[0].position, changes[-1].position
        self._changes = changes
        self._lines = [b"id: %b\ndata: %b\n\n" % (str(each.position).encode(), encode(each.event)) for each in changes]
        self._answers: dict[tuple[tuple[str, str], ...], bytes] = {}
        self.bytes = sum(map(len, self._lines))

    def __len__(self) -> int:
        return len(self._changes)

    def lines(self, wanted: Filter, after: Position) -> bytes:
        """Those behind *after* that *wanted* wants, as the stream writes them."""
        if after >= self.first:
            return self._joined(wanted, after)
        if wanted.asked not in self._answers:
            self._answers[wanted.asked] = self._joined(wanted, after)
        return self._answers[wanted.asked]

    def _joined(self, wanted: Filter, after: Position) -> bytes:
        pairs = zip(self._changes, self._lines, strict=True)
        return b"".join(line for change, line in pairs if change.position > after and wanted.wants(change.event))


class News(msgspec.Struct):
    """What waited for a reader; `beat`: it is time to say that the stream is alive."""

    bursts: list[Burst]
    beat: bool


class Reader:
    """What waits for one reader. `ended` is set when it goes, or was too slow and is cut off."""

    def __init__(self) -> None:
        self.joined: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.takes_bursts = self.is_too_slow = False
        self._bursts: list[Burst] = []
        self._beat = self._closed = False
        self._changes = self._bytes = 0
        self._news = asyncio.Event()

    def join(self, position: Position) -> None:
        if not self.joined.done():
            self.joined.set_result(position)

    def give(self, burst: Burst) -> None:
        self._changes += len(burst)
        self._bytes += burst.bytes
        if self._changes > QUEUE_CHANGES or self._bytes > QUEUE_BYTES:
            self.is_too_slow = True
            self.ended.set()
            return
        self._bursts.append(burst)
        self._news.set()

    def beat(self) -> None:
        self._beat = True
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def news(self) -> News | None:
        """Everything that waits, as soon as there is something; None when the hub has closed."""
        await self._news.wait()
        if not self._closed:  # else nobody might set it again
            self._news.clear()
        found = News(self._bursts, self._beat)
        self._bursts, self._beat, self._changes, self._bytes = [], False, 0, 0
        return None if self._closed and not found.bursts else found


class Hub:
    """`position` is where the feed stands; None while nobody reads."""

    def __init__(self, max_readers: int) -> None:
        self.position: Position | None = None
        self.wanted = asyncio.Event()  # set while there is a reader
        self._max_readers = max_readers
        self._readers: set[Reader] = set()

    def go_live(self, position: Position) -> None:
        """From now on everything behind *position* is published, if there still is a reader."""
        if not self._readers:
            return
        self.position = position
        for reader in self._readers:
            reader.join(position)

    def publish(self, changes: Sequence[Change]) -> None:
        """Hand *changes*, which follow the last ones without a gap, to every reader."""
        if self.position is None or not changes:
            return  # without a position: the last reader went while they were read
        burst = Burst(changes)
        for reader in self._readers:
            if reader.takes_bursts:
                reader.give(burst)
        self.position = burst.last

    def beat(self) -> None:
        for reader in self._readers:
            reader.beat()

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A place among the readers; raises Overloaded when there are too many."""
        if len(self._readers) >= self._max_readers:
            raise Overloaded(f"the stream has {len(self._readers)} readers, its most", retry_after_seconds=5)
        reader = Reader()
        self._readers.add(reader)
        STREAM_READERS.set(len(self._readers))
        self.wanted.set()
        if self.position is not None:
            reader.join(self.position)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            STREAM_READERS.set(len(self._readers))
            if not self._readers:
                self.wanted.clear()
                self.position = None

    async def attach(self, reader: Reader) -> Position:
        """From now on *reader* gets everything behind the position that is returned."""
        joined = await reader.joined
        reader.takes_bursts = True
        return self.position or joined

    def close(self) -> None:
        """End every reader's stream."""
        for reader in self._readers:
            reader.close()
