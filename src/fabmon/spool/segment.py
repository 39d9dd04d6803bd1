"""One segment: a file of records whose sequences grow by one, named by the first of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record, read_line

SUFFIX: Final = ".segment"
VERSION: Final = 3
# What this code reads; the records are the same in all.
READABLE: Final = (1, 2, 3)
LAST_NAME: Final = 10**18  # a name beyond it would leave no room for sequences of 19 digits
HEADER_BYTES: Final = 64  # at most
SHORTEST_LINE: Final = 13  # `CRC32 1 {}` and its line break
# Longer than any event; a "line" beyond it is damage that swallowed a line break.
_LONGEST_LINE: Final = 2 * 1024 * 1024
_HEADER: Final = b"fabmon-spool "
_BEGUN: Final = re.compile(rb"fabmon-spool \d+ (\d{1,19}) |[0-9a-f]{8} (\d{1,19}) ")
_SHORT_LINES: Final = re.compile(rb"(?:[^\n]{0,%d}\n)+" % (SHORTEST_LINE - 2))
_RUN_BYTES: Final = 1024
# In a damaged line the next sequence is looked for so often: an event may have the same digits in its text.
_MOST_PLACES: Final = 16
MOST_BLANK_BYTES: Final = 256 * 1024
_BLANK: Final = memoryview(b" " * (MOST_BLANK_BYTES - 1) + b"\n")


What = Literal["damaged", "torn", "line break", "no record", "out of place"]


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a segment that are no record of its place; or what is damaged in the books or the dead letters.

    `damaged` was a record; `torn` is a write that a crash cut short, at the end or in the blank; a `line break` stood
    between lines that are whole; `no record` is too short to have been one.
    """

    file: str
    offset: int
    length: int
    what: What


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
    short: int | None = None  # where lines begin that are too short for a record; there may be millions
    with disk.open_read(path) as file:
        file.seek(offset)
        while (end is None or offset < end) and (line := file.readline(_LONGEST_LINE)):
            start, offset = offset, offset + len(line)
            if len(line) < SHORTEST_LINE:
                run = line + _short_lines(file, offset)
                offset = start + len(run)
                if short is None and not run.isspace():
                    short = start + run.rfind(b"\n", 0, len(run) - len(run.lstrip())) + 1
            else:
                if short is not None:
                    yield start, Damage(path.name, short, start - short, "no record")
                    short = None
                record = read_line(line[:-1]) if line.endswith(b"\n") else None
                if record is not None:
                    yield offset, record
                    continue
                yield from _left_of(line, path.name, start)
            if not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                break  # what another process has added since begins in the middle of a line
    if short is not None:
        yield offset, Damage(path.name, short, offset - short, "no record")


def _short_lines(file: BinaryIO, offset: int) -> bytes:
    """What comes at *offset*, as far as lines go that are too short for a record; one by one they would delay a start."""
    block = file.read(_RUN_BYTES)
    found = _SHORT_LINES.match(block)
    run = found[0] if found else b""
    file.seek(offset + len(run))
    return run


def _left_of(line: bytes, name: str, start: int) -> Iterator[tuple[int, Record | Damage]]:
    """What *line* holds, though it is no record: one or two of which the line break alone was hit, or damage."""
    behind = start + len(line)
    if cut := _damaged_break(line):
        if before := read_line(line[:cut]):
            yield start + cut + 1, before
        yield start + cut + 1, Damage(name, start + cut, 1, "line break")
        if after := read_line(line[cut + 1 : -1]):
            yield behind, after
        return
    text = line.rstrip(b" \n")
    what: What = "damaged"
    if len(text.strip(b"\0 ")) < SHORTEST_LINE - 1:
        what = "no record"
    elif line.endswith(b" \n") or (len(line) < _LONGEST_LINE and not line.endswith(b"\n")):
        what = "torn"
    if what == "torn" and (record := read_line(text)):
        yield start + len(text), record  # all but its line break was written
    elif what == "torn" and (record := read_line(text[:-1])):
        yield start + len(text), record
        yield start + len(text), Damage(name, start + len(text) - 1, 1, "line break")
    elif text and (start or not line.startswith(_HEADER)):
        yield behind, Damage(name, start, len(line), what)


def _header(line: bytes) -> Header | None:
    words = line.removeprefix(_HEADER).split() if line.startswith(_HEADER) else []
    if len(words) != 3 or not all(word.isdigit() and len(word) < 20 for word in words):
        return None
    version, first_seq, begun_at = map(int, words)
    return Header(version, first_seq, float(begun_at))


def _damaged_break(line: bytes) -> int | None:
    """Where a line break was, between two whole records or the header and one, if nothing but that was damaged."""
    begun = _BEGUN.match(line) if len(line) >= 2 * SHORTEST_LINE else None
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
