"""What durability and locks rest on, and what stands in where a system lacks it.

POSIX: a file is durable after fsync of its bytes, its name after fsync of its directory. Windows has no directory fsync
(NTFS journals the name with the file's own flush) and locks by byte range instead of flock.

`fabmon run` stands in front of every job and imports this: nothing here may be felt at a start.
"""

from __future__ import annotations

import io
import os
import sys

from fabmon.errors import StartError

StrPath = str | os.PathLike[str]


def fsync_bytes(descriptor: int) -> None:
    """Make what an open file holds durable, not when it was changed: where its size stays, no journal is written for it.

    The whole fsync where a system has no fdatasync. Raises OSError.
    """
    getattr(os, "fdatasync", os.fsync)(descriptor)


def fsync_directory(path: StrPath) -> None:
    """Make the names in *path* durable; nothing to do on Windows."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: StrPath, content: bytes) -> None:
    """Replace the file at *path* as a whole: after a crash it holds the old content or the new. Raises OSError."""
    unfinished = f"{os.fspath(path)}.new"
    if os.path.lexists(unfinished):
        os.unlink(unfinished)  # never written into: the name may stand for another file
    with open(open_plain(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    fsync_directory(os.path.dirname(path) or ".")


def open_plain(path: StrPath, flags: int) -> int:
    """Open *path*, which is no link; a named pipe in its place is not waited for. Raises OSError."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600)


def lock_directory(directory: StrPath) -> io.TextIOWrapper:
    """Take *directory*, made if missing, until the returned file is closed or this process dies.

    Raises StartError that names the process which holds it, and OSError.
    """
    _make_durably(os.path.abspath(directory))
    file = open(os.path.join(directory, "lock"), "a+", encoding="ascii")  # noqa: SIM115  (it is handed on)
    try:
        if not lock(file.fileno()):
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            raise StartError(f"{directory} is in use by process {holder}: stop it, or choose another directory")
    except BaseException:
        file.close()
        raise
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), b"%d\n" % os.getpid())
    except OSError:
        pass  # a full disk: who holds it is not known then, but it is held
    return file


def _make_durably(directory: str) -> None:
    """Make *directory* and what is missing above it, each with its name on the disk."""
    if not os.path.isdir(directory):
        parent = os.path.dirname(directory)
        if parent != directory:
            _make_durably(parent)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fsync_directory(parent)


if sys.platform == "win32":
    import msvcrt

    def can_lock() -> bool:
        """Whether a file can be locked and still be renamed and read by others."""
        return False

    def lock(descriptor: int) -> bool:
        # The lock lies behind what is written, so that others may read who holds it.
        os.lseek(descriptor, 1024, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        os.lseek(descriptor, 1024, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def can_lock() -> bool:
        """Whether a file can be locked and still be renamed and read by others."""
        return True

    def lock(descriptor: int) -> bool:
        """Lock the open file if nobody has; False when somebody has. It ends with its process, however that ends.

        Raises OSError where files cannot be locked.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
