"""The segment that is being written: bytes that are durable when a call returns, and never a second try on a file.

The file is kept ahead of its records: behind them lies a blank line, over which the next ones are written. An fsync of a
file whose size and place on the disk stay as they were waits for no journal: docs/decisions/0009-spool-groups.md.
"""

from contextlib import suppress
from pathlib import Path

from fabmon.clock import now
from fabmon.logs import Log
from fabmon.metrics import SPOOL_FSYNC_SECONDS
from fabmon.spool.disk import Disk
from fabmon.spool.segment import MOST_BLANK_BYTES, blank_line, path_of, write_header

log = Log("fabmon.spool")


class SegmentWriter:
    """At most one open file in *directory*; after an error it must be sealed."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._descriptor: int | None = None
        self._end = 0  # behind the last record that is durable
        self._size = 0  # of the file
        self._wanted = 0  # so many bytes came the last time

    @property
    def is_open(self) -> bool:
        return self._descriptor is not None

    def begin(self, first: int, block: bytes) -> int:
        """A new file, durable with its name, that holds its header and *block*; returns its size. Raises OSError."""
        path = path_of(self._directory, first)
        if any(entry.name == path.name for entry in self._disk.list(self._directory)):
            # Left by a write that failed; what it holds was never acknowledged.
            self._disk.unlink(path)
        content = write_header(first, now().timestamp()) + block
        self._descriptor = self._disk.create(path)
        self._end = self._size = len(content)
        self._wanted = len(block)
        try:
            self._disk.write(self._descriptor, content)
            with SPOOL_FSYNC_SECONDS.time():
                self._disk.fsync(self._descriptor)
                self._disk.fsync_directory(self._directory)
        except OSError:
            self.seal()
            with suppress(OSError):
                self._disk.unlink(path)
            raise
        return self._end

    def add(self, block: bytes) -> None:
        """Write *block* behind the last; raises OSError."""
        assert self._descriptor is not None  # noqa: S101 - the caller has asked is_open
        self._wanted = len(block)
        end = self._end + len(block)
        self._size = max(self._size, end)
        self._disk.write_at(self._descriptor, block, self._end)
        with SPOOL_FSYNC_SECONDS.time():
            self._disk.fsync(self._descriptor)
        self._end = end

    def go_ahead(self, room: int) -> None:
        """Have blank behind the records for as much again as came the last time; at most *room* bytes of it.

        The file is no more than doubled, so few events need little. Nothing depends on it: where it fails, a new segment
        does without.
        """
        ahead = self._size - self._end
        length = min(self._end, room, MOST_BLANK_BYTES)
        if self._descriptor is None or ahead >= self._wanted or ahead >= length:
            return
        self._size = self._end + length
        try:
            self._disk.write_at(self._descriptor, blank_line(length), self._end)
            self._disk.fsync(self._descriptor)
        except OSError as error:
            log.warning("spool.not_ahead", directory=self._directory, reason=error.strerror, action="new segment")
            self.seal()

    def seal(self) -> None:
        """Never write the file again; take back what is behind its last durable record, as far as the disk lets us."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            if self._size > self._end:
                self._disk.truncate(descriptor, self._end)
        except OSError as error:
            log.error("spool.not_taken_back", directory=self._directory, reason=error.strerror)
        try:
            self._disk.close(descriptor)
        except OSError as error:
            log.warning("spool.not_closed", directory=self._directory, reason=error.strerror)
