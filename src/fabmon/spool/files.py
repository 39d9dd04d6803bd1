"""The files of a spool: a queue of records in a directory of segments. Format: docs/spool-format.md.

Everything here is called by one thread at a time (`spool.py` sees to that) and blocks until the disk has answered. After
any failure to write, the segment is never written again, and a new one is begun.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from fabmon.errors import SpoolFailed, SpoolFull
from fabmon.logs import Log
from fabmon.spool.ages import Ages
from fabmon.spool.ahead import records_ahead
from fabmon.spool.books import Books, BooksFile
from fabmon.spool.dead import DeadLetters, Letter
from fabmon.spool.disk import Disk, is_full
from fabmon.spool.frame import Record, write_line
from fabmon.spool.keep import keep_segments
from fabmon.spool.limits import Limits
from fabmon.spool.segment import path_of
from fabmon.spool.survey import Segment, last_sequence, set_aside, survey
from fabmon.spool.writer import SegmentWriter

log = Log("fabmon.spool")


class SpoolFiles:
    """The queue in *directory*. Numbers are exact: they count what is on disk, not calls."""

    def __init__(self, directory: Path, limits: Limits, disk: Disk | None = None) -> None:
        self.directory = directory
        self.limits = limits
        self._disk = disk or Disk()
        self._segments = survey(self._disk, directory)
        self.size_bytes = sum(segment.size for segment in self._segments)
        self._books_file = BooksFile(self._disk, directory)
        self._ages = Ages(self._segments)
        self.books = self._opening_books()
        keep_segments(self._segments, self.books)
        self.dead = DeadLetters(self._disk, directory, self.books.acknowledged)
        self._writer = SegmentWriter(self._disk, directory)
        self._room_bytes = 0  # what the limits left beside the last append
        self._read_from: tuple[int, int] = (0, 0)  # segment and offset behind the acknowledged position
        self._window: list[tuple[Record, int, int]] = []  # read and not acknowledged: record, segment, offset behind it
        if self._save():
            self._delete_delivered()

    @property
    def accepted(self) -> int:
        """Every event that was ever taken; each has a sequence of its own, and none is given out twice."""
        return self._next_seq - 1

    @property
    def pending(self) -> int:
        return self._next_seq - 1 - self.books.acknowledged

    def oldest_pending_age(self) -> float | None:
        """Seconds that the oldest pending event has waited; how exactly is said in ages.py."""
        if not self.pending:
            return None
        return self._ages.age_of(self.books.acknowledged + 1, tuple(self._segments))

    def free_bytes(self) -> int:
        """On the disk; with what is blank, which is there already for the next events. Raises OSError."""
        return self._disk.free_bytes(self.directory) + self._writer.blank_bytes

    def append(self, raws: Sequence[bytes]) -> None:
        """Write the events and fsync; raises SpoolFull or SpoolFailed, and then none of them counts as kept."""
        self._drop_expired()
        block = b"".join([write_line(self._next_seq + place, raw) for place, raw in enumerate(raws)])
        self._room_bytes = self._make_room(len(block))
        if self._writer.is_open and self._ages.is_newest_old(len(self._segments)):
            self._writer.seal()
        try:
            if self._writer.is_open:
                self._writer.add(block)
                self._segments[-1].size += len(block)
                self.size_bytes += len(block)
            else:
                self._segments.append(Segment(self._next_seq, self._writer.begin(self._next_seq, block), None, 0.0))
                self._ages.begun(self._next_seq)
                self.size_bytes += self._segments[-1].size
        except OSError as error:
            reason = error.strerror or str(error)
            log.error("spool.write_failed", directory=self.directory, reason=reason, action="new segment")
            if is_full(error):
                raise SpoolFull("the disk under the spool is full") from error
            raise SpoolFailed(f"the spool cannot be written: {reason}") from error
        self._ages.appended(self._next_seq)
        self._next_seq += len(raws)
        if self._segments[-1].size >= self.limits.roll_at_bytes:
            self._writer.seal()

    def make_blank(self) -> None:
        """Make the next append cheap, now that nobody waits for the last; it may not be called, or come to nothing."""
        if self._writer.is_open:
            self._writer.make_blank(min(self._room_bytes, self.limits.roll_at_bytes - self._segments[-1].size))

    def read(self, max_events: int, max_bytes: int) -> list[Record]:
        """The oldest events that are not acknowledged; the first one always comes, whatever its size.

        Empty only when nothing is pending: what cannot be read is booked as set aside. Raises SpoolFailed when the disk
        will not say what it holds.
        """
        self._drop_expired()
        try:
            self._look_ahead(max_events, max_bytes)
        except SpoolFailed:
            if not self._window:
                raise
        records: list[Record] = []
        size = 0
        for record, _, _ in self._window[:max_events]:
            size += len(record.raw)
            if records and size > max_bytes:
                break
            records.append(record)
        if not records and self.pending:
            log.error("spool.nothing_readable", directory=self.directory, events=self.pending, action="set aside")
            self.acknowledge(self._next_seq - 1)
        return records

    def read_ahead(self, max_events: int, max_bytes: int) -> None:
        """Have the events behind those of the last `read` at hand for the next, while the other side takes those."""
        with suppress(SpoolFailed):  # the next read says it
            self._look_ahead(2 * max_events, 2 * max_bytes)

    def acknowledge(self, seq: int, letters: Sequence[Letter] = ()) -> None:
        """Everything up to *seq* has found its end: *letters* are dead, the rest delivered, the unreadable set aside.

        On a disk too full for dead letters their segments are kept. Raises SpoolFailed, and nothing is acknowledged then.
        """
        seq = min(seq, self._next_seq - 1)
        if seq <= self.books.acknowledged:
            return
        found, reached = self._found_until(seq)
        letters = [letter for letter in letters if self.books.acknowledged < letter.record.seq <= seq]
        kept = 0
        if letters:
            try:
                self.dead.add(letters)
            except SpoolFull as error:
                # Draining needs no free space, and makes some.
                keep_segments(self._segments, self.books, letters, why=str(error))
                kept = len(letters)
        self.books.delivered += found - len(letters)
        self.books.dead += len(letters) - kept
        self.books.set_aside += seq - self.books.acknowledged - found + kept
        self.books.acknowledged = seq
        if reached is not None:
            self._read_from = reached
        self.tidy()

    def tidy(self) -> None:
        """Book what has found its end and remove it; what the disk refuses now is left for the next time."""
        if self._save():
            self.dead.booked()
            self._delete_delivered()

    def close(self) -> None:
        """Leave everything so that the next start knows exactly what was given out."""
        self._writer.seal()
        self._save()
        self._books_file.close()

    def _opening_books(self) -> Books:
        """The books as stored, and where they say less than the segments, what can be said for certain."""
        books = self._books_file.books or Books()
        first = self._segments[0].first if self._segments else max(books.last, books.acknowledged) + 1
        in_doubt = self._books_file.books is None or self._books_file.spoiled
        if in_doubt and first > books.acknowledged + 1:
            # These were delivered, most likely; the books that said so are gone.
            books.drop("unknown", first - 1 - books.acknowledged)
        self._next_seq = max(books.last, books.acknowledged) + 1
        while self._segments:
            newest = self._segments[-1]
            self._next_seq = max(self._next_seq, last_sequence(self._disk, self.directory, newest) + 1)
            if self._next_seq > newest.first:
                break
            # Begun, and then came the crash: its name is free for the next.
            self._remove(newest)
        return books

    def _ahead(self) -> Iterator[tuple[Record, int, int]]:
        """Whole records behind those at hand, each with its segment and the offset behind it."""
        after, start = self.books.acknowledged, self._read_from
        if self._window and self._window[-1][0].seq > after:
            last, first, behind = self._window[-1]
            after, start = last.seq, (first, behind)
        return records_ahead(self._disk, self.directory, tuple(self._segments), start, after, self._next_seq)

    def _look_ahead(self, max_events: int, max_bytes: int) -> None:
        """Have so many at hand; raises SpoolFailed, with those before the failure at hand."""
        acknowledged = self.books.acknowledged
        if self._window and self._window[0][0].seq <= acknowledged:
            self._window = self._window[self._count_until(acknowledged) :]
        size = sum(len(record.raw) for record, _, _ in self._window)
        if len(self._window) >= max_events or size >= max_bytes:
            return
        for found in self._ahead():
            self._window.append(found)
            size += len(found[0].raw)
            if len(self._window) >= max_events or size >= max_bytes:
                return

    def _count_until(self, seq: int) -> int:
        return bisect_right(self._window, seq, key=lambda each: each[0].seq)

    def _found_until(self, seq: int) -> tuple[int, tuple[int, int] | None]:
        """How many whole records lie behind the acknowledged position up to *seq*, and where the last of them ends."""
        end = self._count_until(seq)
        count = end - self._count_until(self.books.acknowledged)
        reached = self._window[end - 1][1:] if count else None
        if end == len(self._window):
            for record, first, behind in self._ahead():
                if record.seq > seq:
                    break
                count, reached = count + 1, (first, behind)
        return count, reached

    def _make_room(self, wanted: int) -> int:
        """Room for *wanted* bytes within the limits, and how much there is beyond; raises SpoolFull or SpoolFailed."""
        limits = self.limits
        while limits.policy == "drop_oldest" and self._segments and limits.is_short_of(self.size_bytes, wanted):
            if not self._drop_oldest("full"):
                break
        try:
            free = self.free_bytes() if limits.min_free_bytes else None
        except OSError as error:
            raise SpoolFailed(f"the disk under the spool cannot be asked: {error.strerror}") from error
        return limits.room_beside(self.size_bytes, wanted, free)

    def _drop_expired(self) -> None:
        limit = self.limits.max_age_seconds
        while limit and self._segments and self.pending:
            if self._ages.least_age_of(self._segments[0]) <= limit or not self._drop_oldest("age"):
                return

    def _drop_oldest(self, reason: str) -> bool:
        """Give up the oldest segment with all that is pending in it; False when the disk does not let us."""
        bound = self._segments[1].first if len(self._segments) > 1 else self._next_seq
        if len(self._segments) == 1:
            self._writer.seal()
        count = max(0, bound - 1 - self.books.acknowledged)
        books = msgspec.structs.replace(self.books)
        books.drop(reason, count)
        if count and not self._save(books):
            return False
        self.books = books
        if count:
            log.warning("spool.dropped", directory=self.directory, events=count, why=reason)
        before = len(self._segments)
        self._delete_delivered()
        return len(self._segments) < before

    def _save(self, books: Books | None = None) -> bool:
        books = books or self.books
        books.last = self._next_seq - 1
        try:
            self._books_file.save(books)
        except OSError as error:
            # Nothing is deleted then; after a crash some events are sent once more.
            log.warning("spool.books_not_saved", directory=self.directory, reason=error.strerror)
            return False
        return True

    def _delete_delivered(self) -> None:
        """Remove segments that lie wholly before the acknowledged position; the books on disk say so already."""
        while len(self._segments) > 1 and self._segments[1].first <= self.books.acknowledged + 1:
            if not self._remove(self._segments[0]):
                return
        if not self.pending and self._segments:
            self._writer.seal()
            self._remove(self._segments[0])

    def _remove(self, segment: Segment) -> bool:
        """Delete *segment*, or keep it in `set-aside` when some of it could not be read; False: later, perhaps."""
        path = path_of(self.directory, segment.first)
        if segment.damaged and set_aside(self._disk, self.directory, {path.name: "damaged"}):
            return False
        try:
            if not segment.damaged:
                self._disk.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("spool.not_deleted", file=path.name, reason=error.strerror)
            return False
        self._segments.remove(segment)
        self.size_bytes -= segment.size
        self._ages.forget(segment.first)
        return True
