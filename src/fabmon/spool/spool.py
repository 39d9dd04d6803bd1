"""A durable queue of events in a directory of segments. Format: docs/spool-format.md.

    append -> one fsync for all that wait together -> acknowledged to the caller
    read   -> from behind the acknowledged position, in order
    acknowledge(seq) -> everything up to seq is delivered; segments that lie wholly before it are deleted

After any failure to write, the segment is never written again: the spool looks at what really is on disk, as it does
after a crash, and goes on in a new one.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from os import fsync
from pathlib import Path
from typing import BinaryIO, Final

from fabmon.clock import now
from fabmon.errors import SpoolFailed, SpoolFull, StartError
from fabmon.logs import Log
from fabmon.spool.durable import fsync_directory, lock_directory, replace_durably
from fabmon.spool.frame import MAGIC, Record, read_line, write_line
from fabmon.spool.segment import SUFFIX, first_seq_of, header, path_of, read_segment
from fabmon.wire.codec import encode
from fabmon.wire.event import Rejection

log = Log("fabmon.spool")

SEGMENT_BYTES: Final = 8 * 1024 * 1024
_ACKNOWLEDGED: Final = "acknowledged"
_DEAD: Final = "dead.jsonl"


@asynccontextmanager
async def open_spool(directory: Path, max_bytes: int) -> AsyncIterator["Spool"]:
    """The spool in *directory*, made when it is not there, and held by this process alone.

    Raises StartError when another process holds it or it cannot be written.
    """
    try:
        lock = lock_directory(directory)
    except OSError as error:
        raise StartError(f"FABMON_SPOOL_DIR: {directory} cannot be used: {error.strerror}") from error
    with lock:
        spool = Spool(directory, max_bytes)
        await asyncio.to_thread(spool.find_end)
        try:
            yield spool
        finally:
            await spool.close()


class Spool:
    """Use it through `open_spool`. Numbers are exact: they count records on disk, not calls."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.bytes = 0
        self.dead_letters = 0
        self.damaged = 0
        self._next_seq = 1
        self._acknowledged = 0
        self._segments: list[int] = []  # first sequences, oldest first
        self._file: BinaryIO | None = None  # the segment that is being written
        self._file_bytes = 0
        self._read_at: tuple[int, int] | None = None  # segment and offset behind the acknowledged position
        self._write_turn = asyncio.Lock()
        self._read_turn = asyncio.Lock()
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[None]]] = []
        self._grown = asyncio.Event()

    @property
    def pending(self) -> int:
        """Events that are on disk and not acknowledged."""
        return self._next_seq - 1 - self._acknowledged

    async def append(self, raws: Sequence[bytes]) -> None:
        """Return when every event is durable; what waits at the same time shares one fsync.

        Raises SpoolFull (the bound, or the disk) or SpoolFailed; then none of *raws* counts as kept.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((raws, done))
        async with self._write_turn:
            if not done.done():
                await self._flush()
        await done

    async def read(self, max_events: int = 1000, max_bytes: int = 4 * 1024 * 1024) -> list[Record]:
        """The oldest events that are not acknowledged, without waiting; the first one always comes, whatever its size."""
        async with self._read_turn:
            return await asyncio.to_thread(self._read, max_events, max_bytes)

    async def wait(self) -> None:
        """Return when something is pending."""
        while not self.pending:
            self._grown.clear()
            await self._grown.wait()

    async def acknowledge(self, seq: int) -> None:
        """Everything up to *seq* need not be read again."""
        async with self._read_turn:
            await asyncio.to_thread(self._acknowledge, seq)

    async def bury(self, letters: Sequence[tuple[Record, Rejection]]) -> None:
        """Keep events that the other side refused for good, each with the reason, in `dead.jsonl`."""
        at = now()
        lines = [
            b'{"at":%b,"code":%b,"detail":%b,"event":%b}\n'
            % (encode(at), encode(why.code), encode(why.detail), record.raw)
            for record, why in letters
        ]
        await asyncio.to_thread(self._bury, lines)
        self.dead_letters += len(lines)

    async def close(self) -> None:
        async with self._write_turn:
            self._seal()

    def find_end(self) -> None:
        """Learn from the directory alone what is there: positions, sizes, the last record that is whole."""
        self._seal()
        names = {first_seq_of(path): path for path in self.directory.glob("*" + SUFFIX)}
        paths = {first: path for first, path in names.items() if first is not None}
        self._segments = sorted(paths)
        self.bytes = sum(path.stat().st_size for path in paths.values())
        self._acknowledged = max(self._stored_position(), min(self._segments, default=1) - 1)
        last = self._acknowledged
        if self._segments:
            newest = self._segments[-1]
            last = max(last, newest - 1, *(seq for seq in self._sequences(paths[newest])))
        self._next_seq = last + 1
        dead = self.directory / _DEAD
        self.dead_letters = _count_lines(dead) if dead.exists() else 0

    async def _flush(self) -> None:
        """Write what waits, in one go; runs for one caller at a time."""
        taken, self._waiting = self._waiting, []
        try:
            await asyncio.shield(asyncio.to_thread(self._write, [raw for raws, _ in taken for raw in raws]))
        except (SpoolFull, SpoolFailed) as error:
            for _, done in taken:
                if not done.done():
                    done.set_exception(error)
            return
        for _, done in taken:
            if not done.done():
                done.set_result(None)
        self._grown.set()

    def _write(self, raws: Sequence[bytes]) -> None:
        lines = [write_line(self._next_seq + place, raw) for place, raw in enumerate(raws)]
        block = b"".join(lines)
        if self.bytes + len(block) > self.max_bytes:
            raise SpoolFull(f"the spool holds {self.bytes} of at most {self.max_bytes} bytes")
        try:
            file = self._file or self._open_segment()
            file.write(block)
            file.flush()
            fsync(file.fileno())
        except OSError as error:
            log.error("spool.write_failed", directory=self.directory, reason=error.strerror, action="new segment")
            self._after_failure()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SpoolFull("the disk under the spool is full") from error
            raise SpoolFailed(f"the spool cannot be written: {error.strerror}") from error
        self._next_seq += len(raws)
        self.bytes += len(block)
        self._file_bytes += len(block)
        if self._file_bytes >= SEGMENT_BYTES:
            self._seal()

    def _open_segment(self) -> BinaryIO:
        path = path_of(self.directory, self._next_seq)
        # A segment of that name can only hold damage: had it a whole record, the next sequence would be higher.
        self._file = path.open("wb", buffering=0)
        if self._segments[-1:] != [self._next_seq]:
            self._segments.append(self._next_seq)
        self._file.write(header(self._next_seq))
        self._file_bytes = len(header(self._next_seq))
        self.bytes += self._file_bytes
        fsync_directory(self.directory)
        return self._file

    def _after_failure(self) -> None:
        try:
            self.find_end()
        except OSError as error:
            log.error("spool.unreadable", directory=self.directory, reason=error.strerror)

    def _seal(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sequences(self, path: Path) -> list[int]:
        found = []
        for _, item in read_segment(path):
            if isinstance(item, Record):
                found.append(item.seq)
            else:
                log.warning("spool.damaged", file=item.file, offset=item.offset, bytes=item.length, torn=item.torn)
        return found[-1:]

    def _read(self, max_events: int, max_bytes: int) -> list[Record]:
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

    def _acknowledge(self, seq: int) -> None:
        self._acknowledged = max(self._acknowledged, min(seq, self._next_seq - 1))
        self._move_reader()
        try:
            self._delete_delivered()
            line = b"%b %d" % (MAGIC, self._acknowledged)
            replace_durably(self.directory / _ACKNOWLEDGED, write_line(self._acknowledged, line))
        except OSError as error:
            # Without it some events are sent once more after a crash, and found to be duplicates.
            log.warning("spool.position_not_saved", directory=self.directory, reason=error.strerror)

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
            before = behind
        self._read_at = (first, before)

    def _delete_delivered(self) -> None:
        while len(self._segments) > 1 and self._segments[1] <= self._acknowledged + 1:
            self._delete(self._segments[0])
        if self.pending == 0 and self._segments:
            self._seal()
            self._delete(self._segments[0])

    def _delete(self, first: int) -> None:
        path = path_of(self.directory, first)
        self.bytes -= path.stat().st_size
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

    def _bury(self, lines: Sequence[bytes]) -> None:
        try:
            with (self.directory / _DEAD).open("ab") as file:
                file.writelines(lines)
                file.flush()
                fsync(file.fileno())
            fsync_directory(self.directory)
        except OSError as error:
            raise SpoolFailed(f"dead letters cannot be written: {error.strerror}") from error


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
