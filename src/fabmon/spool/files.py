"""The files of a spool: a queue of records in a directory of segments. Format: docs/spool-format.md.

Everything here is called by one thread at a time (`spool.py` sees to that) and blocks until the disk has answered. After
any failure to write, the segment is never written again: what is really there is read from the disk, as after a crash,
and a new segment is begun.
"""

import errno
from collections.abc import Sequence
from io import FileIO
from os import fsync
from pathlib import Path
from typing import Final

from fabmon.clock import now
from fabmon.errors import SpoolFailed, SpoolFull
from fabmon.logs import Log
from fabmon.spool.durable import fsync_directory, replace_durably
from fabmon.spool.frame import MAGIC, Record, read_line, write_line
from fabmon.spool.segment import SUFFIX, Damage, begun_at, first_seq_of, header, path_of, read_segment

log = Log("fabmon.spool")

SEGMENT_BYTES: Final = 8 * 1024 * 1024
_ACKNOWLEDGED: Final = "acknowledged"
_DEAD: Final = "dead.jsonl"


class SpoolFiles:
    """The queue in *directory*, at most *max_bytes* long. Numbers are exact: they count what is on disk, not calls."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.dead_letters = 0
        self._next_seq = 1
        self._acknowledged = 0
        self._segments: list[int] = []  # first sequences, oldest first
        self._file: FileIO | None = None  # the segment that is being written
        self._file_bytes = 0
        self._read_at: tuple[int, int] | None = None  # segment and offset behind the acknowledged position
        self.find_end()

    @property
    def pending(self) -> int:
        """Events that are on disk and not acknowledged."""
        return self._next_seq - 1 - self._acknowledged

    @property
    def last_seq(self) -> int:
        return self._next_seq - 1

    def oldest_pending_age(self) -> float | None:
        """Seconds since the segment of the oldest pending event was begun, which is the most that it can have waited."""
        if not self.pending or not self._segments:
            return None
        begun = begun_at(path_of(self.directory, self._segments[0]))
        return None if begun is None else max(0.0, now().timestamp() - begun)

    def append(self, raws: Sequence[bytes]) -> None:
        """Write the events and fsync; raises SpoolFull or SpoolFailed, and then none of them counts as kept."""
        lines = [write_line(self._next_seq + place, raw) for place, raw in enumerate(raws)]
        block = b"".join(lines)
        if self.size_bytes + len(block) > self.max_bytes:
            raise SpoolFull(f"the spool holds {self.size_bytes} of at most {self.max_bytes} bytes")
        try:
            file = self._file or self._open_segment()
            _write_all(file, block)
            fsync(file.fileno())
        except OSError as error:
            log.error("spool.write_failed", directory=self.directory, reason=error.strerror, action="new segment")
            self._give_up_segment()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SpoolFull("the disk under the spool is full") from error
            raise SpoolFailed(f"the spool cannot be written: {error.strerror}") from error
        self._next_seq += len(raws)
        self.size_bytes += len(block)
        self._file_bytes += len(block)
        if self._file_bytes >= SEGMENT_BYTES:
            self.close()

    def read(self, max_events: int, max_bytes: int) -> list[Record]:
        """The oldest events that are not acknowledged; the first one always comes, whatever its size."""
        records: list[Record] = []
        size = 0
        for first in [first for first in self._segments if self._read_at is None or first >= self._read_at[0]]:
            start = self._read_at[1] if self._read_at is not None and self._read_at[0] == first else 0
            for _, item in read_segment(path_of(self.directory, first), start):
                if not isinstance(item, Record):
                    continue
                if item.seq <= self._acknowledged or item.seq >= self._next_seq:
                    continue
                if records and size + len(item.raw) > max_bytes:
                    return records
                records.append(item)
                size += len(item.raw)
                if len(records) >= max_events:
                    return records
        return records

    def acknowledge(self, seq: int) -> None:
        """Everything up to *seq* need not be read again; segments that lie wholly before it are deleted."""
        self._acknowledged = max(self._acknowledged, min(seq, self._next_seq - 1))
        self._move_reader()
        try:
            self._delete_delivered()
            line = b"%b %d" % (MAGIC, self._acknowledged)
            replace_durably(self.directory / _ACKNOWLEDGED, write_line(self._acknowledged, line))
        except OSError as error:
            # Without it some events are sent once more after a crash, and found to be duplicates.
            log.warning("spool.position_not_saved", directory=self.directory, reason=error.strerror)

    def bury(self, lines: Sequence[bytes]) -> None:
        """Add lines to the dead letters, durably."""
        try:
            with (self.directory / _DEAD).open("ab") as file:
                file.writelines(lines)
                file.flush()
                fsync(file.fileno())
            fsync_directory(self.directory)
        except OSError as error:
            raise SpoolFailed(f"dead letters cannot be written: {error.strerror}") from error
        self.dead_letters += len(lines)

    def find_end(self) -> None:
        """Learn from the directory alone what is there: positions, sizes, the last record that is whole."""
        self.close()
        names = {first_seq_of(path): path for path in self.directory.glob("*" + SUFFIX)}
        paths = {first: path for first, path in names.items() if first is not None}
        self._segments = sorted(paths)
        self.size_bytes = sum(path.stat().st_size for path in paths.values())
        self._acknowledged = max(self._stored_position(), min(self._segments, default=1) - 1)
        last = self._acknowledged
        if self._segments:
            newest = self._segments[-1]
            last = max(last, newest - 1, *(seq for seq in self._sequences(paths[newest])))
        self._next_seq = last + 1
        dead = self.directory / _DEAD
        self.dead_letters = _count_lines(dead) if dead.exists() else 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open_segment(self) -> FileIO:
        path = path_of(self.directory, self._next_seq)
        # A segment of that name can only hold damage: had it a whole record, the next sequence would be higher.
        self._file = FileIO(path, "wb")
        if self._segments[-1:] != [self._next_seq]:
            self._segments.append(self._next_seq)
        self._file_bytes = 0
        head = header(self._next_seq, now().timestamp())
        _write_all(self._file, head)
        self._file_bytes = len(head)
        self.size_bytes += self._file_bytes
        fsync_directory(self.directory)
        return self._file

    def _give_up_segment(self) -> None:
        """Take back what was written half, as far as the disk lets us, and learn what is there."""
        try:
            if self._file is not None:
                self._file.truncate(self._file_bytes)
            self.find_end()
        except OSError as error:
            log.error("spool.unreadable", directory=self.directory, reason=error.strerror)
            self.close()

    def _sequences(self, path: Path) -> list[int]:
        found = []
        for _, item in read_segment(path):
            if isinstance(item, Record):
                found.append(item.seq)
            else:
                log.warning("spool.damaged", file=item.file, offset=item.offset, bytes=item.length, torn=item.torn)
        return found[-1:]

    def _move_reader(self) -> None:
        """Remember where the first record behind the acknowledged one begins."""
        first = max((first for first in self._segments if first <= self._acknowledged + 1), default=None)
        if first is None:
            self._read_at = None
            return
        start = self._read_at[1] if self._read_at is not None and self._read_at[0] == first else 0
        before = start
        for behind, item in read_segment(path_of(self.directory, first), start):
            if isinstance(item, Record) and item.seq > self._acknowledged:
                break
            if isinstance(item, Damage):
                log.warning(
                    "spool.damaged", file=item.file, offset=item.offset, bytes=item.length, action="passed over"
                )
            before = behind
        self._read_at = (first, before)

    def _delete_delivered(self) -> None:
        while len(self._segments) > 1 and self._segments[1] <= self._acknowledged + 1:
            self._delete(self._segments[0])
        if self.pending == 0 and self._segments:
            self.close()
            self._delete(self._segments[0])

    def _delete(self, first: int) -> None:
        path = path_of(self.directory, first)
        self.size_bytes -= path.stat().st_size
        path.unlink()
        self._segments.remove(first)

    def _stored_position(self) -> int:
        try:
            line = (self.directory / _ACKNOWLEDGED).read_bytes()
        except FileNotFoundError:
            return 0
        record = read_line(line.rstrip(b"\n"))
        if record is None or not record.raw.startswith(MAGIC):
            log.warning("spool.position_damaged", file=_ACKNOWLEDGED, action="sending again what is there")
            return 0
        return record.seq


def _write_all(file: FileIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
