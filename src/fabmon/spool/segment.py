"""One segment: a file of records whose sequences grow by one, named by the first of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fabmon.spool.frame import MAGIC, Record, read_line

SUFFIX: Final = ".segment"
# Longer than any event; a "line" beyond it is damage that swallowed a line break.
_LONGEST_LINE: Final = 2 * 1024 * 1024


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a segment that are no record."""

    file: str
    offset: int
    length: int
    torn: bool  # at the end and without its line break: a write that a crash cut short


def path_of(directory: Path, first_seq: int) -> Path:
    return directory / f"{first_seq:020d}{SUFFIX}"


def first_seq_of(path: Path) -> int | None:
    """The first sequence of the segment at *path*; None when the name is none of ours."""
    return int(path.stem) if path.stem.isdigit() and len(path.stem) == 20 and int(path.stem) > 0 else None


def header(first_seq: int, begun_at: float) -> bytes:
    return b"%b %d %d\n" % (MAGIC, first_seq, begun_at)


def begun_at(path: Path) -> float | None:
    """When the segment at *path* was begun, in Unix seconds; None when its header is damaged."""
    with path.open("rb") as file:
        words = file.readline(200).removeprefix(MAGIC).split()
    return float(words[1]) if len(words) == 2 and words[1].isdigit() else None


def read_segment(path: Path, offset: int = 0) -> Iterator[tuple[int, Record | Damage]]:
    """The records from *offset* on, and what is damaged, each with the offset behind it.

    Reads a line at a time: memory does not grow with the segment.
    """
    with path.open("rb") as file:
        file.seek(offset)
        while line := file.readline(_LONGEST_LINE):
            start, offset = offset, offset + len(line)
            if start == 0 and line.startswith(MAGIC + b" "):
                continue
            whole = line.endswith(b"\n")
            record = read_line(line[:-1]) if whole else None
            yield offset, record or Damage(path.name, start, len(line), torn=not whole and len(line) < _LONGEST_LINE)
