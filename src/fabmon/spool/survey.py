"""What is in a spool's directory at start: which segments, in which order, and where the next sequence begins.

Looks at names, sizes and first lines; only the newest segment is read. Whatever bytes lie there, it comes to an end, says
what it found, and deletes nothing but empty files: what is no segment of ours is moved into `set-aside`.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from fabmon.logs import Log
from fabmon.spool.books import BOOKS, VERSION_1
from fabmon.spool.disk import Disk, Entry
from fabmon.spool.frame import Record
from fabmon.spool.letters import DEAD
from fabmon.spool.segment import READABLE, SHORTEST_LINE, SUFFIX, first_seq_of, path_of, read_header, read_segment

log = Log("fabmon.spool")

ASIDE: Final = "set-aside"
ID: Final = "id"
_OURS: Final = (BOOKS, VERSION_1, DEAD, ID)
# More than a segment of ours has; a newest one that is larger is not read to its end, however long that would take.
_MOST_READ_BYTES: Final = 128 * 1024 * 1024
# A segment whose first line is damaged is looked through this far for a record that fits its name.
_LOOK_BYTES: Final = 4 * 1024 * 1024


class Segment(msgspec.Struct):
    """One file of the queue."""

    first: int
    size: int
    begun_at: float | None  # Unix seconds, as its first line says
    modified_at: float
    damaged: bool = False  # then it is kept, in `set-aside`, when its events have been delivered
    failures: int = 0  # of reading it, one after another


def survey(disk: Disk, directory: Path) -> list[Segment]:
    """The segments in *directory*, oldest first; moves aside what is none. Raises OSError."""
    found: dict[int, Entry] = {}
    strange: dict[str, str] = {}
    for entry in disk.list(directory):
        first = first_seq_of(entry.name)
        if not entry.is_file and (first is not None or entry.name in _OURS):
            strange[entry.name] = "no plain file"
        elif first is not None:
            found[first] = entry
        elif entry.name.endswith(SUFFIX):
            log.warning("spool.strange_file", file=entry.name, action="left alone")
    segments: list[Segment] = []
    empty: dict[str, Segment] = {}
    names = set(found)
    for first, entry in sorted(found.items()):
        segment, holds_records = _look(disk, directory, first, entry, names)
        if segment is not None and holds_records:
            segments.append(segment)
        elif segment is not None:
            empty[entry.name] = segment
    left = set_aside(disk, directory, strange | dict.fromkeys(empty, "holds no record"))
    segments += [segment for name, segment in empty.items() if name in left]
    return sorted(segments, key=lambda segment: segment.first)


def last_sequence(disk: Disk, directory: Path, segment: Segment) -> int:
    """The last sequence that the newest segment gave out.

    A damaged line with its line break was one event; a rest without is a write that a crash cut short. Where that cannot be
    known, it is more than can have been given out.
    """
    most = segment.first + segment.size // SHORTEST_LINE
    last = segment.first - 1
    places = 0
    try:
        for _, item in read_segment(disk, path_of(directory, segment.first), end=_MOST_READ_BYTES):
            if isinstance(item, Record):
                last = max(last, item.seq)
                continue
            segment.damaged = True
            places += 1
            if places == 1:
                log.warning("spool.damaged", file=item.file, offset=item.offset, bytes=item.length, what=item.what)
            last += item.what == "damaged"
    except OSError as error:
        log.error("spool.unreadable", file=segment.first, reason=error.strerror)
        return max(last, most)
    if segment.size > _MOST_READ_BYTES:
        segment.damaged = True
        log.error("spool.larger_than_any", file=segment.first, bytes=segment.size, action="its end is not looked at")
        return max(last, most)
    if places > 1:
        log.warning("spool.damaged_in_places", file=path_of(directory, segment.first).name, places=places)
    return last


def set_aside(disk: Disk, directory: Path, reasons: Mapping[str, str]) -> set[str]:
    """Move each name into `set-aside`, under a name that is free there; those that the disk does not let go."""
    left: set[str] = set()
    if not reasons:
        return left
    aside = directory / ASIDE
    try:
        disk.make_directory(aside)
        taken = {entry.name for entry in disk.list(aside)}
    except OSError as error:
        log.error("spool.not_set_aside", files=len(reasons), reason=error.strerror)
        return set(reasons)
    for name, reason in reasons.items():
        target = next(each for number in count(1) if (each := f"{name}.{number}") not in taken)
        try:
            disk.rename(directory / name, aside / target)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.error("spool.not_set_aside", file=name, why=reason, reason=error.strerror)
            left.add(name)
            continue
        log.warning("spool.set_aside", file=name, why=reason, kept_as=f"{ASIDE}/{target}")
    # Should the names not become durable, a crash brings the files back, and they are moved again.
    with suppress(OSError):
        disk.fsync_directory(aside)
        disk.fsync_directory(directory)
    return left


def _look(disk: Disk, directory: Path, first: int, entry: Entry, names: set[int]) -> tuple[Segment | None, bool]:
    """The segment behind *entry*, None when it was deleted, and whether there may be records in it."""
    path = directory / entry.name
    segment = Segment(first, entry.size, None, entry.modified_at)
    try:
        if not entry.size:
            disk.unlink(path)
            return None, False
        header = read_header(disk, path)
        if header is not None and header.version not in READABLE:
            log.warning("spool.other_version", file=entry.name, version=header.version, action="reading what is whole")
        if header is not None and header.first_seq == first:
            segment.begun_at = header.begun_at
            segment.damaged = header.version not in READABLE
            return segment, True
        segment.damaged = True
        ahead = read_segment(disk, path, end=_LOOK_BYTES)
        begins = next((item.seq for _, item in ahead if isinstance(item, Record)), 0)
        if header is not None and header.first_seq == begins and begins not in names:
            # Somebody gave it another name; first line and first record say where it belongs.
            segment.first, segment.begun_at = header.first_seq, header.begun_at
            names.add(header.first_seq)
            disk.rename(path, path_of(directory, header.first_seq))
            log.warning("spool.renamed", file=entry.name, first_sequence=header.first_seq)
            return segment, True
    except OSError as error:
        # Reading it will be tried again, and given up after a few times.
        log.error("spool.unreadable", file=entry.name, reason=error.strerror)
        return segment, True
    return segment, begins >= first
