"""One segment: a file of records whose sequences grow by one, named by the first of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record, read_line

SUFFIX: Final = ".segment"
VERSION: Final = 3
# What this code reads; the records are the same in all.
READABLE: Final = (1, 2, 3)
LAST_NAME: Final = 10**18  # a name beyond it would leave no room for sequences of 19 digits
# Longer than any event; a "line" beyond it is damage that swallowed a line break.
_LONGEST_LINE: Final = 2 * 1024 * 1024
_HEADER: Final = b"fabmon-spool "
_BEGUN: Final = re.compile(rb"fabmon-spool \d+ (\d{1,19}) |[0-9a-f]{8} (\d{1,19}) ")
# In a damaged line the next sequence is looked for so often: an event may have the same digits in its text.
_MOST_PLACES: Final = 16
MOST_BLANK_BYTES: Final = 256 * 1024
_BLANK: Final = memoryview(b" " * (MOST_BLANK_BYTES - 1) + b"\n")


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a segment that are no record."""

    file: str
    offset: int
    length: int
    torn: bool  # without its own line break, at the end or in the blank: a write that a crash cut short

    @property
    def is_break(self) -> bool:
        """A line break between whole lines; nothing else was hit."""
        return self.length == 1 and not self.torn


class Header(msgspec.Struct, frozen=True):
    version: int
    first_seq: int
    begun_at: float


def path_of(directory: Path, first_seq: int) -> Path:
    return directory / f"{first_seq:020d}{SUFFIX}"


def first_seq_of(name: str) -> int | None:
    """The first sequence of the segment called *name*; None when the name is none of ours."""
    stem, dot, suffix = name.partition(".")
    if dot + suffix != SUFFIX or len(stem) != 20 or not (stem.isascii() and stem.isdigit()):
        return None
    return int(stem) if 0 < int(stem) < LAST_NAME else None


def write_header(first_seq: int, begun_at: float) -> bytes:
    return b"%b%d %d %d\n" % (_HEADER, VERSION, first_seq, begun_at)


def blank_line(length: int) -> memoryview:
    """A line of *length* bytes, at most MOST_BLANK_BYTES, that says nothing and is there to be written over."""
    return _BLANK[MOST_BLANK_BYTES - length :]


def read_header(disk: Disk, path: Path) -> Header | None:
    """The first line of the segment at *path*; None when it is not as it was written."""
    with disk.open_read(path) as file:
        line = file.readline(200)
    return _header(line[:-1]) if line.endswith(b"\n") else None


def read_segment(
    disk: Disk, path: Path, offset: int = 0, end: int | None = None
) -> Iterator[tuple[int, Record | Damage]]:
    """The records from *offset* to *end*, and what is damaged, each with the offset behind it.

    Reads a line at a time: memory does not grow with the segment.
    """
    with disk.open_read(path) as file:
        file.seek(offset)
        while (end is None or offset < end) and (line := file.readline(_LONGEST_LINE)):
            start, offset = offset, offset + len(line)
            is_ended = line.endswith(b"\n")
            record = read_line(line[:-1]) if is_ended else None
            if record is None and (cut := _damaged_break(line)):
                if before := read_line(line[:cut]):
                    yield start + cut + 1, before
                yield start + cut + 1, Damage(path.name, start + cut, 1, torn=False)
                record = read_line(line[cut + 1 : -1])
            if record is not None:
                yield offset, record
            elif not line.isspace() and not (start == 0 and line.startswith(_HEADER)):
                # Cut short by the end of the file, or before it had overwritten the blank to its end.
                torn = line.endswith(b" \n") if is_ended else len(line) < _LONGEST_LINE
                yield offset, Damage(path.name, start, len(line), torn)
            if not is_ended and len(line) < _LONGEST_LINE:
                return  # what another process has added since begins in the middle of a line


def _header(line: bytes) -> Header | None:
    words = line.removeprefix(_HEADER).split() if line.startswith(_HEADER) else []
    if len(words) != 3 or not all(word.isdigit() and len(word) < 20 for word in words):
        return None
    version, first_seq, begun_at = map(int, words)
    return Header(version, first_seq, float(begun_at))


def _damaged_break(line: bytes) -> int | None:
    """Where a line break was, between two whole records or the header and one, if nothing but that was damaged."""
    begun = _BEGUN.match(line)
    if begun is None:
        return None
    header_seq, seq = begun.groups()
    mark = b" %d " % (int(header_seq) if header_seq else int(seq) + 1)
    place = begun.end() - 1
    for _ in range(_MOST_PLACES):
        place = line.find(mark, place + 1)
        cut = place - 9  # the next begins with its checksum
        if place < 0:
            return None
        if read_line(line[cut + 1 : -1]) and (_header(line[:cut]) or read_line(line[:cut])):
            return cut
    return None
