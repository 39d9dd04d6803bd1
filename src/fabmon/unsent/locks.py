"""A lock that ends with its process, however that ends: `flock`. Windows has none; there nothing is locked."""

from __future__ import annotations

import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def can_lock() -> bool:
    return fcntl is not None


def lock(descriptor: int) -> bool:
    """Lock the open file if nobody has; False when somebody has. Raises OSError where files cannot be locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def open_plain(path: str | os.PathLike[str], flags: int) -> int:
    """Open *path*, which is no link; a named pipe in its place is not waited for. Raises OSError."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600)
