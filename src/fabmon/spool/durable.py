"""The file-system calls that durability rests on, and the fallbacks where a system lacks them.

POSIX: a file is durable after fsync of its bytes, its name after fsync of its directory. Windows has no directory fsync
(NTFS journals the name with the file's own flush) and locks by byte range instead of flock.
"""

import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from fabmon.clock import monotonic
from fabmon.errors import StartError


def fsync_directory(path: Path) -> None:
    """Make the names in *path* durable; nothing to do on Windows."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Replace the file at *path* as a whole: after a crash it holds the old content or the new."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def lock_directory(directory: Path) -> IO[str]:
    """Take *directory* for this process; the lock is held until the returned file is closed or the process dies.

    Raises StartError that names the process which holds it.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (directory / "lock").open("a+", encoding="ascii")
    try:
        _lock(file)
    except OSError:
        file.seek(0)
        holder = file.read(20).strip() or "unknown"
        file.close()
        raise StartError(f"{directory} is in use by process {holder}: stop it, or choose another directory") from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def wait_for_lock(file: IO[Any]) -> None:
    """Lock *file* until it is closed; raises OSError when another process holds it for longer than five seconds."""
    deadline = monotonic() + 5.0
    while True:
        try:
            _lock(file)
            return
        except OSError:
            if monotonic() > deadline:
                raise
        time.sleep(0.02)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[Any]) -> None:
        # The lock lies behind what is written, so that others may read who holds it.
        file.seek(1024)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[Any]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
