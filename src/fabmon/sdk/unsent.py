"""Events that a sidecar has not taken, on disk until a later run sends them.

    DATA_DIR/unsent/<address>-<process>-<n>.jsonl   events, a line each, oldest first; replaced as a whole
    DATA_DIR/unsent/<address>-<id>.jsonl.taken      claimed, by renaming, by a run that sends it; free after 10 minutes

<address> stands for the sidecar's URL, so that no event reaches a sidecar that it was not meant for. Two runs that send
the same event do no harm: an idempotency key is stored once. That is why no lock is needed: a file that is claimed while
its process still adds to it is written again, as a whole, under its old name.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

FILES_LIMIT: Final = 1000
BYTES_LIMIT: Final = 256 * 1024 * 1024
# A file grows to about this size, then the next one begins.
CHUNK_BYTES: Final = 1024 * 1024
CLAIM_SECONDS: Final = 600.0


class Shelf:
    """The files of one process: `add` writes durably, in few files however often it is called."""

    def __init__(self, directory: Callable[[], Path], name: str) -> None:
        self._directory = directory
        self._name = name
        self._number = 0
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Put *lines* on disk. Raises OSError; what was written before stays."""
        done = 0
        while done < len(lines):
            end, size = done, self._bytes
            while end < len(lines) and size < CHUNK_BYTES:
                size += len(lines[end]) + 1
                end += 1
            keep(self._directory(), f"{self._name}-{self._number}", [*self._lines, *lines[done:end]])
            self._lines += lines[done:end]
            self._bytes, done = size, end
            if size >= CHUNK_BYTES:
                self.turn_the_page()

    def turn_the_page(self) -> None:
        """Leave the file as it is, for whoever sends it, and begin another with the next line."""
        self._number += bool(self._lines)
        self._lines, self._bytes = [], 0


def keep(directory: Path, name: str, lines: Sequence[bytes]) -> None:
    """Write *lines* durably as the file *name*; the oldest files go when there are too many. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_room(directory, sum(map(len, lines)) + len(lines))
    unfinished = directory / f"{name}.new"
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(directory / f"{name}.jsonl")
    _fsync_directory(directory)


def claim(directory: Path, address: str) -> Iterator[Path]:
    """The files meant for *address*, oldest first, each renamed so that no other run takes it.

    The caller unlinks it, or gives it back with `release`; what a crash leaves is free again after CLAIM_SECONDS.
    """
    claimed_since = time.time() - CLAIM_SECONDS
    for path in _oldest_first(directory, f"{address}-*"):
        try:
            if path.suffix not in (".jsonl", ".taken"):
                continue
            if path.suffix == ".taken" and path.stat().st_mtime > claimed_since:
                continue
            os.utime(path)
            taken = directory / f"{address}-{uuid4().hex}.jsonl.taken"
            path.rename(taken)
        except OSError:
            continue  # another run was faster
        yield taken


def release(taken: Path, left: Sequence[bytes] | None = None) -> None:
    """Give a claimed file back, under a name of its own: its run may have written the old name again.

    With *left*, only these lines of it: the others have arrived. Raises OSError, and then the claim stays.
    """
    if left is None:
        taken.replace(taken.with_suffix(""))
        return
    keep(taken.parent, taken.with_suffix("").stem, left)
    taken.unlink(missing_ok=True)


def _make_room(directory: Path, needed_bytes: int) -> None:
    found = [(path, _size_bytes(path)) for path in _oldest_first(directory, "*")]
    total_bytes = sum(size for _, size in found)
    while found and (len(found) >= FILES_LIMIT or total_bytes + needed_bytes > BYTES_LIMIT):
        path, size = found.pop(0)
        path.unlink(missing_ok=True)
        total_bytes -= size


def _oldest_first(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern), key=_changed_at)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _fsync_directory(directory: Path) -> None:
    """Makes a new name durable. Windows cannot open a directory; there the file system's journal has to do."""
    if os.name == "nt":
        return
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
