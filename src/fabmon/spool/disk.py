"""Every file-system call that the spool makes, in one object, so that a test can put a disk that forgets under it.

Descriptors are plain numbers, writes are unbuffered: what one call promises is what the system call promises.
"""

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from fabmon.clock import monotonic
from fabmon.durable import fsync_bytes, fsync_directory, lock

_BINARY: Final = getattr(os, "O_BINARY", 0)
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0)
_MODE: Final = 0o600
_FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_LOCK_SECONDS: Final = 5.0


def is_full(error: OSError) -> bool:
    """Whether *error* says that there is no room, on the disk or for us."""
    return error.errno in _FULL


class Entry(msgspec.Struct, frozen=True):
    """One name in a directory."""

    name: str
    size: int
    modified_at: float
    is_file: bool


class Disk:
    """The real one. Each call raises OSError, and then promises nothing about what is on the disk."""

    def list(self, directory: Path) -> list[Entry]:
        found = []
        with os.scandir(directory) as entries:
            for each in entries:
                try:
                    info = each.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # deleted since it was listed, by the process that we look at
                found.append(_entry(each.name, info))
        return found

    def entry(self, path: Path) -> Entry | None:
        """What has this name; None when nothing has in its directory."""
        try:
            info = path.lstat()
        except FileNotFoundError:
            path.parent.stat()
            return None
        return _entry(path.name, info)

    def open_read(self, path: Path) -> BinaryIO:
        """A plain file: what else may have its name could keep a reader waiting, or never end."""
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _AT_ONCE)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        return os.fdopen(descriptor, "rb")

    def create(self, path: Path) -> int:
        """A new file; raises FileExistsError when the name is taken."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, _MODE)

    def open_append(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, _MODE)

    def open_write(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | _BINARY)

    def write(self, descriptor: int, block: bytes | memoryview) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def write_at(self, descriptor: int, block: bytes | memoryview, offset: int) -> None:
        os.lseek(descriptor, offset, os.SEEK_SET)
        self.write(descriptor, block)

    def fsync(self, descriptor: int) -> None:
        """The bytes and the size are durable."""
        fsync_bytes(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.truncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, path: Path, target: Path) -> None:
        path.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def fsync_directory(self, path: Path) -> None:
        fsync_directory(path)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Hold the lock file at *path* for a short while; waits a few seconds for who holds it."""
        deadline = monotonic() + _LOCK_SECONDS
        with path.open("a+b") as file:
            while not lock(file.fileno()):
                if monotonic() > deadline:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
                time.sleep(0.02)
            yield

    def free_bytes(self, directory: Path) -> int:
        return shutil.disk_usage(directory).free


def _entry(name: str, info: os.stat_result) -> Entry:
    return Entry(name, info.st_size, info.st_mtime, stat.S_ISREG(info.st_mode))


def create_durably(disk: Disk, path: Path, blocks: Iterable[bytes]) -> None:
    """The file at *path* as a whole, in place of one that may be there: after a crash it is the old or the new."""
    temporary = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        disk.unlink(temporary)
    descriptor = disk.create(temporary)
    try:
        for block in blocks:
            disk.write(descriptor, block)
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    disk.rename(temporary, path)
    disk.fsync_directory(path.parent)
