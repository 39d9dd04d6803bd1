"""The segment that is being written: bytes that are durable when a call returns, and never a second try on a file.

The file is kept ahead of its records: behind them lies a blank line, over which the next ones are written. An fsync of a
file whose size and place on the disk stay as they were waits for no journal: docs/decisions/0009-spool-groups.md.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from fabmon.clock import now
from fabmon.logs import Log
from fabmon.metrics import SPOOL_FSYNC_SECONDS
from fabmon.spool.disk import Disk
from fabmon.spool.segment import MOST_BLANK_BYTES, blank_line, path_of, write_header

log = Log("fabmon.spool")

# What a blank costs, a write and an fsync more, pays for itself when four groups or so are written over it.
_LARGEST_BLOCK_BYTES: Final = MOST_BLANK_BYTES // 4


class SegmentWriter:
    """At most one open file in *directory*. Whatever fails, the file is never written again."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._descriptor: int | None = None
        self._durable_bytes = 0
        self._file_bytes = 0  # more, by what is blank or by a write that failed
        self._last_block_bytes = 0

    @property
    def is_open(self) -> bool:
        return self._descriptor is not None

    @property
    def blank_bytes(self) -> int:
        """What the open file holds behind its records."""
        return 0 if self._descriptor is None else self._file_bytes - self._durable_bytes

    def begin(self, first: int, block: bytes) -> int:
        """A new file, durable with its name, that holds its header and *block*; returns its size. Raises OSError."""
        path = path_of(self._directory, first)
        content = write_header(first, now().timestamp()) + block
        self._durable_bytes = self._file_bytes = self._last_block_bytes = 0
        try:
            self._descriptor = self._disk.create(path)
        except FileExistsError:
            # Left by a write that failed; what it holds was never acknowledged.
            self._disk.unlink(path)
            self._descriptor = self._disk.create(path)
        try:
            self._disk.write(self._descriptor, content)
            with SPOOL_FSYNC_SECONDS.time():
                self._disk.fsync(self._descriptor)
                self._disk.fsync_directory(self._directory)
        except BaseException:
            self.seal()
            with suppress(OSError):
                self._disk.unlink(path)
            raise
        self._durable_bytes = self._file_bytes = len(content)
        return len(content)

    def add(self, block: bytes) -> None:
        """Write *block* behind the last; raises OSError."""
        assert self._descriptor is not None  # noqa: S101 - the caller has asked is_open
        behind = self._durable_bytes + len(block)
        self._file_bytes = max(self._file_bytes, behind)
        try:
            self._disk.write_at(self._descriptor, block, self._durable_bytes)
            with SPOOL_FSYNC_SECONDS.time():
                self._disk.fsync(self._descriptor)
        except BaseException:
            self.seal()
            raise
        self._durable_bytes, self._last_block_bytes = behind, len(block)

    def make_blank(self, room_bytes: int) -> None:
        """Have blank behind the records, *room_bytes* at most, when little is left for as much as came the last time.

        The file is no more than doubled, so few events need little; one alone, or large groups, get none. Nothing depends
        on it: where it fails, a new segment does without.
        """
        length = min(self._durable_bytes, room_bytes, MOST_BLANK_BYTES)
        if not self.blank_bytes < self._last_block_bytes <= min(_LARGEST_BLOCK_BYTES, length):
            return
        assert self._descriptor is not None  # noqa: S101 - a block has come
        self._file_bytes = self._durable_bytes + length
        try:
            self._disk.write_at(self._descriptor, blank_line(length), self._durable_bytes)
            self._disk.fsync(self._descriptor)
        except OSError as error:
            log.warning("spool.no_blank", directory=self._directory, reason=error.strerror, action="new segment")
            self.seal()

    def seal(self) -> None:
        """Never write the file again; take back what is behind its last durable record, as far as the disk lets us."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            if self._file_bytes > self._durable_bytes:
                self._disk.truncate(descriptor, self._durable_bytes)
        except OSError as error:
            log.error("spool.not_taken_back", directory=self._directory, reason=error.strerror)
        try:
            self._disk.close(descriptor)
        except OSError as error:
            log.warning("spool.not_closed", directory=self._directory, reason=error.strerror)
