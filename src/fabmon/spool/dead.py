"""The dead letters: events that the other side refused for good, one line each in `dead.jsonl`.

The spool adds to the file, a person takes lines out (`fabmon spool dead`), perhaps at the same time; `dead.lock` keeps
the two apart. A letter that a crash left behind unbooked is found by its sequence and not written twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from fabmon.errors import SpoolFailed
from fabmon.spool.disk import Disk, create_durably
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
        self._ends_cleanly = True
        self._in_doubt = False  # the last write failed
        self._known = (-1, 0.0)
        self.count = 0
        self.look()
        for line in read_letters(disk, directory, last_bytes=_UNBOOKED_BYTES):
            seq = line.get("seq")
            if isinstance(seq, int) and seq > acknowledged:
                self._unbooked.add(seq)

    def look(self) -> int:
        """How many letters there are now; reads the file only when somebody changed it."""
        found = next((each for each in self._disk.list(self._path.parent) if each.name == DEAD), None)
        now_known = (-1, 0.0) if found is None or not found.is_file else (found.size, found.modified_at)
        if now_known == self._known:
            return self.count
        self.count, last = 0, b"\n"
        if now_known[0] > 0:
            with self._disk.open_read(self._path) as file:
                while block := file.read(1 << 20):
                    self.count += block.count(b"\n")
                    last = block[-1:]
        self._ends_cleanly = last == b"\n"
        self._known = now_known
        return self.count

    def add(self, letters: Sequence[Letter]) -> None:
        """Keep *letters* durably; raises SpoolFailed."""
        fresh = [letter for letter in letters if letter.record.seq not in self._unbooked]
        if not fresh:
            return
        try:
            with self._disk.locked(self._path.parent / "dead.lock"):
                self.look()
                if self._in_doubt:
                    self._rewrite(fresh)
                else:
                    self._append(b"".join(map(_line, fresh)))
                self.look()
        except OSError as error:
            self._in_doubt = True
            raise SpoolFailed(f"dead letters cannot be written: {error.strerror}") from error
        self._in_doubt = False
        self._unbooked.update(letter.record.seq for letter in fresh)

    def booked(self) -> None:
        """The books hold all that was added."""
        self._unbooked.clear()

    def _append(self, lines: bytes) -> None:
        descriptor = self._disk.open_append(self._path)
        try:
            self._disk.write(descriptor, lines if self._ends_cleanly else b"\n" + lines)
            self._disk.fsync(descriptor)
        finally:
            self._disk.close(descriptor)
        self._disk.fsync_directory(self._path.parent)

    def _rewrite(self, fresh: Sequence[Letter]) -> None:
        """A new file: in the old one may be half of them, and what its fsync did not keep it never will."""
        seqs = {letter.record.seq for letter in fresh}
        kept = []
        with suppress(FileNotFoundError), self._disk.open_read(self._path) as file:
            for line in file:
                letter = decode_object(line)
                if line.endswith(b"\n") and not (letter is not None and letter.get("seq") in seqs):
                    kept.append(line)
        create_durably(self._disk, self._path, b"".join([*kept, *map(_line, fresh)]))


def read_letters(disk: Disk, directory: Path, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """Every letter in *directory* that can be read, oldest first; with *last_bytes*, only those at the end."""
    with suppress(FileNotFoundError), disk.open_read(directory / DEAD) as file:
        if last_bytes is not None:
            file.seek(max(0, file.seek(0, 2) - last_bytes))
        for line in file:
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
    return b'%b,"event":%b}\n' % (encode(facts)[:-1], letter.record.raw)
