"""The files of events that a sidecar has not taken yet.

    DATA_DIR/unsent/<address>-<process>-<n>.jsonl   events, a line each, oldest first; replaced as a whole
    DATA_DIR/unsent/<address>-<id>.jsonl.taken      claimed, by renaming, by whoever sends it, and locked while it does
    DATA_DIR/unsent/<address>-<id>.run              see mark.py

<address> stands for the sidecar's URL, so that no event reaches a sidecar that it was not meant for. A file that is claimed
while its process still adds to it is written again, as a whole, under its old name; to send the same event twice does no
harm, since an idempotency key is stored once. Where files cannot be locked, a claim is free again after 10 minutes.
Which files are trusted: trust.py.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from fabmon.durable import can_lock, lock, open_plain, replace_durably
from fabmon.unsent.lost import settle
from fabmon.unsent.trust import FILE_LIMIT_BYTES, is_trusted

FILES_LIMIT: Final = 1000
BYTES_LIMIT: Final = 256 * 1024 * 1024
# A file grows to about this size, then the next one begins.
CHUNK_BYTES: Final = 1024 * 1024
CLAIM_SECONDS: Final = 600.0
BATCH_EVENTS: Final = 500


class Claimed(NamedTuple):
    """A file that is ours to send."""

    path: Path
    lines: list[bytes]


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
    replace_durably(directory / f"{name}.jsonl", b"".join(line + b"\n" for line in lines))


def waiting(directory: Path, address: str) -> set[str]:
    """What may wait there to be claimed. Raises FileNotFoundError when there is no such directory."""
    return {
        name for name in os.listdir(directory) if name.startswith(f"{address}-") and name.endswith((".jsonl", ".taken"))
    }


@contextmanager
def claims(directory: Path, address: str) -> Iterator[Iterator[Claimed]]:
    """The files meant for *address*, each renamed and locked so that nobody else takes it.

    Oldest first, and what was tried before behind what has come since. The caller unlinks each, or gives it back with
    `release`, before it goes on to the next.
    """
    with closing(_claim(directory, address)) as found:  # now: an exception would hold on to it, and to its lock
        yield found


def deliver(
    post: Callable[[Sequence[bytes]], str | None], claimed: Claimed, go_on: Callable[[], bool] = lambda: True
) -> str | None:
    """Post what was claimed and remove it; why some of it will never be taken, if so.

    What is left is released when *go_on*, which is asked after each batch, says no, or when *post* raises.
    """
    done, trouble = 0, None
    try:
        while done < len(claimed.lines):
            trouble = post(claimed.lines[done : done + BATCH_EVENTS]) or trouble
            done += BATCH_EVENTS
            if not go_on() and done < len(claimed.lines):
                release(claimed, done)
                return trouble
    except BaseException:
        with suppress(OSError):
            release(claimed, done)
        raise
    claimed.path.unlink(missing_ok=True)
    return trouble


def release(claimed: Claimed, done: int = 0) -> None:
    """Give a claimed file back, without its first *done* lines: these have arrived.

    Under a name of its own: its process may have written the old name again. Raises OSError, and then the claim stays.
    """
    path = claimed.path.with_suffix("")
    if done == 0:
        claimed.path.replace(path)
        return
    if done < len(claimed.lines):
        keep(path.parent, path.stem, claimed.lines[done:])
    claimed.path.unlink(missing_ok=True)


def tidy(directory: Path, address: str) -> None:
    """Put many small files into few, durably: a long outage may leave one for each run. Raises OSError."""
    shelf = Shelf(lambda: directory, f"{address}-{uuid4().hex}")
    gathered: list[bytes] = []
    paths: list[Path] = []
    with claims(directory, address) as found:
        for claimed in found:
            if sum(map(len, claimed.lines)) > CHUNK_BYTES // 2:
                release(claimed)
                continue
            gathered += claimed.lines
            paths.append(claimed.path)
            if sum(map(len, gathered)) > CHUNK_BYTES // 2:
                _store(shelf, gathered, paths)
    _store(shelf, gathered, paths)


def _claim(directory: Path, address: str) -> Generator[Claimed, None, None]:
    settle(directory, address)
    for path in sorted(directory.glob(f"{address}-*"), key=_tried_at):
        if path.suffix == ".new" and time.time() > _changed_at(path) + CLAIM_SECONDS and _is_ours(path):
            with suppress(OSError):
                path.unlink()  # its writer was killed over it
        if path.suffix not in (".jsonl", ".taken") or not _is_ours(path):
            continue
        taken, new = path, path.suffix == ".jsonl"
        if new:
            taken = directory / f"{address}-{uuid4().hex}.jsonl.taken"
            try:
                path.rename(taken)
            except OSError:
                continue  # another was faster
        held = _hold(taken, new=new)
        if held is None:
            continue
        try:
            with open(held, "rb", closefd=False) as file:
                lines = file.read(FILE_LIMIT_BYTES).splitlines()
            yield Claimed(taken, lines)
        finally:
            os.close(held)


def _store(shelf: Shelf, gathered: list[bytes], paths: list[Path]) -> None:
    shelf.add(gathered)
    shelf.turn_the_page()
    for path in paths:
        path.unlink(missing_ok=True)
    gathered.clear()
    paths.clear()


def _is_ours(path: Path) -> bool:
    try:
        return is_trusted(path.lstat(), path.parent)
    except OSError:
        return False


def _hold(taken: Path, *, new: bool) -> int | None:
    """The claimed file, open and locked; None when somebody else has it. *new*: it was renamed just now, by us."""
    try:
        held = open_plain(taken, os.O_RDONLY)
    except OSError:
        return None
    try:
        by_lock, ours = can_lock(), new or time.time() > os.fstat(held).st_mtime + CLAIM_SECONDS
        try:
            ours = lock(held) if by_lock else ours
        except OSError:  # a file system without locks
            by_lock = False
        if ours and os.path.samestat(os.fstat(held), taken.lstat()) and is_trusted(os.fstat(held), taken.parent):
            _note_try(held, taken, by_lock=by_lock)
            return held
    except OSError:
        pass  # it has gone
    os.close(held)
    return None


def _note_try(held: int, taken: Path, *, by_lock: bool) -> None:
    """Its turn comes again behind the others': one that fails every time must not hold them up."""
    if not by_lock:
        os.utime(taken)  # also how long it is ours
        return
    with suppress(PermissionError):  # somebody else's, whom we may read
        # Its age stays: when there are too many, the oldest go.
        os.utime(held, ns=(time.time_ns(), os.fstat(held).st_mtime_ns))


def _make_room(directory: Path, needed_bytes: int) -> None:
    """What somebody holds is left alone: runs that go on, and what is being sent."""
    oldest_first = sorted(directory.glob("*"), key=_changed_at)
    others = (path for path in oldest_first if path.suffix not in (".run", ".taken"))
    found = [(path, _size_bytes(path)) for path in others]
    total_bytes = sum(size for _, size in found)
    while found and (len(found) >= FILES_LIMIT or total_bytes + needed_bytes > BYTES_LIMIT):
        path, size = found.pop(0)
        with suppress(OSError):  # gone, or none of ours
            path.unlink()
        total_bytes -= size


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _tried_at(path: Path) -> float:
    """When it was tried last, or came."""
    try:
        return path.stat().st_atime
    except OSError:
        return 0.0


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
