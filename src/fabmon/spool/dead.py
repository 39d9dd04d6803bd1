"""The dead letters: events that the other side refused for good, one line each in `dead.jsonl`.

The spool adds to the file, a person takes lines out (`fabmon spool dead`), perhaps at the same time; `dead.lock` keeps
the two apart. A letter that a crash left behind unbooked is known by its sequence and its event, and replaced instead of
written twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from fabmon.errors import SpoolFailed, SpoolFull
from fabmon.spool.disk import Disk, create_durably, is_full
from fabmon.spool.frame import Record
from fabmon.wire.codec import decode_object

DEAD: Final = "dead.jsonl"
_UNBOOKED_BYTES: Final = 32 * 1024 * 1024  # more than the letters of one batch


class Letter(msgspec.Struct, frozen=True):
    """An event with the reason why the other side refused it."""

    record: Record
    code: str
    detail: str
    status: int | None  # of the HTTP answer; None where the other side is a database
    attempts: int
    first_tried_at: datetime
    refused_at: datetime


class DeadLetters:
    """The file in *directory*, as the spool writes it."""

    def __init__(self, disk: Disk, directory: Path, acknowledged: int) -> None:
        self._disk = disk
        self._path = directory / DEAD
        self._unbooked: set[int] = set()
        self._known: tuple[int, float] | None = None
        self._ends_cleanly = True
        self.count = 0
        self.look()
        # An earlier process may have left bytes that its fsync did not keep; a line break keeps our first line apart.
        self._is_ours = self._known is None
        self._failed = False  # the last write: some of it may be read
        # Up to this sequence letters may be there that no books know. They can be read, and nobody knows for how long.
        self._doubtful_to = max(
            (
                seq
                for line in read_letters(disk, directory, last_bytes=_UNBOOKED_BYTES)
                if isinstance(seq := line.get("seq"), int) and seq > acknowledged
            ),
            default=0,
        )

    def look(self) -> int:
        """How many letters there are now; reads the file only when somebody changed it."""
        known = self._state()
        if known == self._known:
            return self.count
        self.count, last = 0, b"\n"
        if known is not None:
            with self._disk.open_read(self._path) as file:
                for last in file:
                    self.count += last != b"\n"
        self._ends_cleanly = last.endswith(b"\n")
        self._known = known
        return self.count

    def add(self, letters: Sequence[Letter]) -> None:
        """Keep *letters* durably; raises SpoolFull when the disk is full, or SpoolFailed."""
        known = set() if self._failed else self._unbooked
        fresh = [letter for letter in letters if letter.record.seq not in known]
        if not fresh:
            return
        seqs = {letter.record.seq for letter in fresh}
        try:
            with self._disk.locked(self._path.parent / "dead.lock"):
                self.look()
                if self._failed or min(seqs) <= self._doubtful_to:
                    self._rewrite(fresh)
                    self.look()
                else:
                    self._append(b"".join(map(_line, fresh)))
                    self.count += len(fresh)
                    self._ends_cleanly, self._known = True, self._state()
        except OSError as error:
            self._failed, self._doubtful_to = True, max(*seqs, self._doubtful_to)
            why = f"dead letters cannot be written: {error.strerror}"
            raise (SpoolFull(why) if is_full(error) else SpoolFailed(why)) from error
        self._failed = False
        self._is_ours = True
        self._unbooked |= seqs

    def booked(self) -> None:
        """The books hold all that was added."""
        self._unbooked.clear()

    def _append(self, lines: bytes) -> None:
        descriptor = self._disk.open_append(self._path)
        try:
            self._disk.write(descriptor, lines if self._ends_cleanly and self._is_ours else b"\n" + lines)
            self._disk.fsync(descriptor)
        finally:
            self._disk.close(descriptor)
        self._disk.fsync_directory(self._path.parent)

    def _state(self) -> tuple[int, float] | None:
        found = next((each for each in self._disk.list(self._path.parent) if each.name == DEAD and each.is_file), None)
        return None if found is None else (found.size, found.modified_at)

    def _rewrite(self, fresh: Sequence[Letter]) -> None:
        """A new file: in the old one may be half of them, and what its fsync did not keep it never will.

        Lost books give out a sequence again: the same letter is that of the same event.
        """
        ends = {letter.record.seq: _end(letter) for letter in fresh}
        kept = []
        with suppress(FileNotFoundError), self._disk.open_read(self._path) as file:
            for line in file:
                letter = decode_object(line)
                end = ends.get(letter["seq"]) if letter is not None and isinstance(letter.get("seq"), int) else None
                if line.endswith(b"\n") and not (end and line.endswith(end)):
                    kept.append(line)
        create_durably(self._disk, self._path, b"".join([*kept, *map(_line, fresh)]))


def letter_lines(disk: Disk, directory: Path, last_bytes: int | None = None) -> Iterator[bytes]:
    """The lines of the dead letters in *directory*, oldest first; with *last_bytes*, only those at the end.

    Raises OSError when the disk will not say. The number of a letter is its place among all, from 1.
    """
    with suppress(FileNotFoundError), disk.open_read(directory / DEAD) as file:
        if last_bytes is not None:
            file.seek(max(0, file.seek(0, 2) - last_bytes))
        yield from (line for line in file if line != b"\n")


def read_letters(disk: Disk, directory: Path, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """Those of them that can be read."""
    for line in letter_lines(disk, directory, last_bytes):
        letter = decode_object(line)
        if letter is not None:
            yield letter


@contextmanager
def take_out(disk: Disk, directory: Path) -> Iterator[list[bytes]]:
    """The lines of the dead letters, to be changed in place; they are written back when the context ends well."""
    with disk.locked(directory / "dead.lock"):
        with disk.open_read(directory / DEAD) as file:
            lines = file.readlines()
        before = list(lines)
        yield lines
        if lines != before:
            create_durably(disk, directory / DEAD, b"".join(lines))


def _line(letter: Letter) -> bytes:
    encode = msgspec.json.encode
    facts = {
        "seq": letter.record.seq,
        "at": letter.refused_at,
        "first_tried_at": letter.first_tried_at,
        "attempts": letter.attempts,
        "status": letter.status,
        "code": letter.code,
        "detail": letter.detail,
    }
    return encode(facts)[:-1] + _end(letter)


def _end(letter: Letter) -> bytes:
    return b',"event":%b}\n' % letter.record.raw
