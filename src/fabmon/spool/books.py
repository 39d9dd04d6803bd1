"""The spool's books: up to which sequence every event has found its end, and which end that was.

Each sequence up to `acknowledged` ended in exactly one way, so `delivered + dead + set_aside + dropped == acknowledged`,
always. They lie in two slots of one file, written in turn and in place: a crash can spoil the one that is being written,
never the other, and writing them needs no free space. Drawn in docs/spool-format.md.
"""

from pathlib import Path
from typing import Final

import msgspec

from fabmon.logs import Log
from fabmon.spool.disk import Disk, create_durably
from fabmon.spool.frame import read_line, write_line
from fabmon.spool.segment import VERSION

log = Log("fabmon.spool")

BOOKS: Final = "books"
VERSION_1: Final = "acknowledged"  # the position alone, as version 1 kept it
_SLOT_BYTES: Final = 512
MOST_KEPT: Final = 8  # a slot has room for no more


class Books(msgspec.Struct):
    acknowledged: int = 0  # every sequence up to it has found its end
    last: int = 0  # the highest sequence that was given out when this was written
    delivered: int = 0
    dead: int = 0
    set_aside: int = 0  # could not be read back, or was refused and found no room among the dead letters
    dropped: dict[str, int] = {}  # by reason: full, age, unknown
    format: int = VERSION  # of the directory, as who wrote this knew it
    keep: list[int] = []  # segments that go into `set-aside` when all of their events have ended

    @property
    def balanced(self) -> bool:
        ended = self.delivered + self.dead + self.set_aside + sum(self.dropped.values())
        return ended == self.acknowledged <= self.last

    def drop(self, reason: str, count: int) -> None:
        self.acknowledged += count
        self.dropped = {**self.dropped, reason: self.dropped.get(reason, 0) + count}


class BooksFile:
    """The file in *directory*; `books` is None when there is none that can be read."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._path = directory / BOOKS
        self._descriptor: int | None = None
        self.books, self._generation, self.spoiled = read_books(disk, directory)
        # An earlier process's file: what is read there may not be on the disk (it was killed before its fsync, or that
        # failed), so the first save makes a new one; if there is no room for that, the old one will do.
        self._is_usable = [entry.size for entry in disk.list(directory) if entry.name == BOOKS] == [2 * _SLOT_BYTES]
        self._in_place = False

    def save(self, books: Books) -> None:
        """Write *books* durably; raises OSError, and then what was saved before still counts."""
        generation = self._generation + 1
        books.format = VERSION
        slot = _slot(generation, books)
        try:
            if self._in_place:
                self._overwrite(slot, generation)
            else:
                self._replace(slot, generation)
        except OSError:
            # A file whose fsync failed is never written again.
            self._in_place = False
            self.close()
            raise
        self._generation, self._in_place = generation, True

    def _replace(self, slot: bytes, generation: int) -> None:
        is_usable, self._is_usable = self._is_usable, False
        try:
            create_durably(self._disk, self._path, [slot + slot])
        except OSError:
            if not is_usable:
                raise
            self._overwrite(slot, generation)

    def _overwrite(self, slot: bytes, generation: int) -> None:
        """In place, so that a full disk can be drained."""
        if self._descriptor is None:
            self._descriptor = self._disk.open_write(self._path)
        self._disk.write_at(self._descriptor, slot, generation % 2 * _SLOT_BYTES)
        self._disk.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._disk.close(descriptor)


def read_books(disk: Disk, directory: Path) -> tuple[Books | None, int, bool]:
    """The newest books in *directory*, their generation, and whether a slot was spoiled.

    Raises OSError when the disk will not say: the file may hold the truth, so better no start than a wrong one.
    """
    try:
        with disk.open_read(directory / BOOKS) as file:
            content = file.read(2 * _SLOT_BYTES)
    except FileNotFoundError:
        return _version_1(disk, directory), 0, False
    found = [_read_slot(content[start : start + _SLOT_BYTES]) for start in (0, _SLOT_BYTES)]
    whole = [each for each in found if each is not None]
    if not whole:
        log.warning("spool.books_damaged", file=directory / BOOKS, action="sending again what is there")
        return None, 0, True
    generation, books = max(whole, key=lambda each: each[0])
    return books, generation, len(whole) < 2


def _version_1(disk: Disk, directory: Path) -> Books | None:
    try:
        with disk.open_read(directory / VERSION_1) as file:
            record = read_line(file.read(_SLOT_BYTES).rstrip(b"\n"))
    except OSError:
        return None
    if record is None or record.raw != b"fabmon-spool 1 %d" % record.seq:
        return None
    return Books(record.seq, record.seq, record.seq)


def _slot(generation: int, books: Books) -> bytes:
    line = write_line(generation, msgspec.json.encode(books))
    # Padded inside the checksum, so that a slot is one line of a known length.
    return write_line(generation, msgspec.json.encode(books) + b" " * (_SLOT_BYTES - len(line)))


def _read_slot(slot: bytes) -> tuple[int, Books] | None:
    record = read_line(slot.removesuffix(b"\n")) if slot.endswith(b"\n") else None
    if record is None:
        return None
    try:
        books = msgspec.json.decode(record.raw, type=Books)
    except msgspec.MsgspecError:
        return None
    return (record.seq, books) if books.balanced else None
