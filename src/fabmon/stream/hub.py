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
    """One reader's queue. `ended` is set when it goes, or when it was too slow and is cut off."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue(QUEUE_CHANGES)
        self.ended = asyncio.Event()

    def give(self, message: Message | None) -> None:
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.ended.set()


class Hub:
    def __init__(self, max_readers: int) -> None:
        self.position = Position(0, 0)
        self._max_readers = max_readers
        self._readers: set[Reader] = set()

    @property
    def readers(self) -> int:
        return len(self._readers)

    def publish(self, changes: Sequence[Change]) -> None:
        """Hand *changes*, which follow the last ones without a gap, to every reader."""
        for change in changes:
            message = to_message(change)
            for reader in self._readers:
                reader.give(message)
            self.position = change.position

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A reader that gets everything published from now on; raises Overloaded when there are too many."""
        if len(self._readers) >= self._max_readers:
            raise Overloaded(f"the stream has {len(self._readers)} readers, its most", retry_after_seconds=5)
        reader = Reader()
        self._readers.add(reader)
        STREAM_READERS.set(len(self._readers))
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            STREAM_READERS.set(len(self._readers))

    def close(self) -> None:
        """End every reader's stream."""
        for reader in self._readers:
            reader.give(None)


def to_message(change: Change) -> Message:
    return Message(change.position, change.event, encode(change.event))
