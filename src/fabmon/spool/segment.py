"""One segment: a file of records whose sequences grow by one, named by the first of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record, read_line

SUFFIX: Final = ".segment"
VERSION: Final = 2
# What this code reads; the records are the same in both.
READABLE: Final = (1, 2)
LAST_NAME: Final = 10**18  # a name beyond it would leave no room for sequences of 19 digits
# Longer than any event; a "line" beyond it is damage that swallowed a line break.
_LONGEST_LINE: Final = 2 * 1024 * 1024
_HEADER: Final = b"fabmon-spool "


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a segment that are no record."""

    file: str
    offset: int
    length: int
    torn: bool  # at the end and without its line break: a write that a crash cut short


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


def read_header(disk: Disk, path: Path) -> Header | None:
    """The first line of the segment at *path*; None when it is not as it was written."""
    with disk.open_read(path) as file:
        line = file.readline(200)
    words = line.removeprefix(_HEADER).split() if line.startswith(_HEADER) and line.endswith(b"\n") else []
    if len(words) != 3 or not all(word.isdigit() and len(word) < 20 for word in words):
        return None
    version, first_seq, begun_at = map(int, words)
    return Header(version, first_seq, float(begun_at))


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
            if start == 0 and line.startswith(_HEADER):
                continue
            whole = line.endswith(b"\n")
            record = read_line(line[:-1]) if whole else None
            yield offset, record or Damage(path.name, start, len(line), torn=not whole and len(line) < _LONGEST_LINE)
