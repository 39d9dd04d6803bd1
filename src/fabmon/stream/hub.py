"""Fan-out: every change goes to every reader's queue; a reader that falls behind is cut off, and resumes by its id."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from fabmon.errors import Overloaded
from fabmon.metrics import STREAM_READERS
from fabmon.store.changes import Change, Position
from fabmon.wire.codec import encode

QUEUE_CHANGES: Final = 10_000


class Message(msgspec.Struct, frozen=True):
    """A change as readers get it: encoded once, however many they are."""

    position: Position
    event: dict[str, Any]
    data: bytes


class Reader:
    """One reader's queue: everything behind `joined`. `ended` is set when it goes, or was too slow and is cut off."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue(QUEUE_CHANGES)
        self.joined: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    def join(self, position: Position) -> None:
        if not self.joined.done():
            self.joined.set_result(position)

    def give(self, message: Message | None) -> None:
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.ended.set()


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
        if self.position is None:
            return  # the last reader went while they were read
        for change in changes:
            message = to_message(change)
            for reader in self._readers:
                reader.give(message)
            self.position = change.position

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A reader that gets everything behind the position it joins at; raises Overloaded when there are too many."""
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

    def close(self) -> None:
        """End every reader's stream."""
        for reader in self._readers:
            reader.give(None)


def to_message(change: Change) -> Message:
    return Message(change.position, change.event, encode(change.event))
