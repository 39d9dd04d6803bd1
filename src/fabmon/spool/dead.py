"""The dead letters: events that the other side refused for good, one line each in `dead.jsonl`.

The spool adds to the file, a person takes lines out (`fabmon spool dead`), perhaps at the same time; `dead.lock` keeps
the two apart. A letter that a crash left behind unbooked is known by its sequence and its event, and replaced instead of
written twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from fabmon.errors import SpoolFailed, SpoolFull
from fabmon.spool.disk import Disk, create_durably, is_full
from fabmon.spool.frame import Record
from fabmon.spool.letters import DEAD, LetterCount
from fabmon.wire.codec import decode_object

_BLOCK_BYTES: Final = 1024 * 1024
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
        self.letters = LetterCount(disk, directory)
        # An earlier process may have left bytes that its fsync did not keep; a line break keeps our first line apart.
        self._is_ours = self.letters.state() is None
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

    def add(self, letters: Sequence[Letter]) -> None:
        """Keep *letters* durably; raises SpoolFull when the disk is full, or SpoolFailed."""
        known = set() if self._failed else self._unbooked
        fresh = [letter for letter in letters if letter.record.seq not in known]
        if not fresh:
            return
        seqs = {letter.record.seq for letter in fresh}
        try:
            with self._disk.locked(self._path.parent / "dead.lock"):
                before = self.letters.state()
                if self._failed or min(seqs) <= self._doubtful_to:
                    self._rewrite(fresh)
                else:
                    self._append(b"".join(map(_line, fresh)))
                    self.letters.grew(before, len(fresh))
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
            self._disk.write(descriptor, lines if self._is_ours and self._ends_cleanly() else b"\n" + lines)
            self._disk.fsync(descriptor)
        finally:
            self._disk.close(descriptor)
        self._disk.fsync_directory(self._path.parent)

    def _ends_cleanly(self) -> bool:
        """A person's editor may have left the last line without its line break."""
        with suppress(FileNotFoundError), self._disk.open_read(self._path) as file:
            if file.seek(0, 2):
                file.seek(-1, 2)
                return file.read(1) == b"\n"
        return True

    def _rewrite(self, fresh: Sequence[Letter]) -> None:
        """A new file: in the old one may be half of them, and what its fsync did not keep it never will.

        Lost books give out a sequence again: the same letter is that of the same event.
        """
        ends = {letter.record.seq: _end(letter) for letter in fresh}
        create_durably(self._disk, self._path, chain(self._without(ends), [b"".join(map(_line, fresh))]))

    def _without(self, ends: Mapping[int, bytes]) -> Iterator[bytes]:
        """What the file holds, but not the letters of *ends*, which are among its last; it may have gigabytes."""
        with suppress(FileNotFoundError), self._disk.open_read(self._path) as file:
            rest = file.seek(0, 2) - _UNBOOKED_BYTES
            file.seek(0)
            while rest > 0 and (block := file.read(min(rest, _BLOCK_BYTES))):
                rest -= len(block)
                yield block
            kept = []
            for line in file:
                letter = decode_object(line)
                end = ends.get(letter["seq"]) if letter is not None and isinstance(letter.get("seq"), int) else None
                if line.endswith(b"\n") and not (end and line.endswith(end)):
                    kept.append(line)
            yield b"".join(kept)


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
            create_durably(disk, directory / DEAD, [b"".join(lines)])


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
