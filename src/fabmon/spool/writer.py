"""The segment that is being written: bytes that are durable when a call returns, and never a second try on a file."""

from contextlib import suppress
from pathlib import Path

from fabmon.clock import now
from fabmon.logs import Log
from fabmon.metrics import SPOOL_FSYNC_SECONDS
from fabmon.spool.disk import Disk
from fabmon.spool.segment import path_of, write_header

log = Log("fabmon.spool")


class SegmentWriter:
    """At most one open file in *directory*; after an error it must be given up."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._descriptor: int | None = None

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
        return len(content)

    def add(self, block: bytes) -> None:
        """Raises OSError; what of *block* is in the file then, nobody knows."""
        assert self._descriptor is not None  # noqa: S101 - the caller has asked is_open
        self._disk.write(self._descriptor, block)
        with SPOOL_FSYNC_SECONDS.time():
            self._disk.fsync(self._descriptor)

    def give_up(self, size: int) -> None:
        """Never write the file again; take back what is behind *size*, as far as the disk lets us."""
        if self._descriptor is not None:
            try:
                self._disk.truncate(self._descriptor, size)
            except OSError as error:
                log.error("spool.not_taken_back", directory=self._directory, reason=error.strerror)
        self.seal()

    def seal(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                self._disk.close(descriptor)
            except OSError as error:
                log.warning("spool.not_closed", directory=self._directory, reason=error.strerror)
