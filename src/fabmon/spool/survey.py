"""What is in a spool's directory at start: which segments, in which order, and where the next sequence begins.

Looks at names, sizes and first lines; only the newest segment is read. Whatever bytes lie there, it comes to an end, says
what it found, and deletes nothing but empty files: what is no segment of ours is moved into `set-aside`.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from fabmon.logs import Log
from fabmon.spool.books import BOOKS, VERSION_1
from fabmon.spool.dead import DEAD
from fabmon.spool.disk import Disk, Entry
from fabmon.spool.frame import Record
from fabmon.spool.segment import READABLE, SUFFIX, first_seq_of, path_of, read_header, read_segment

log = Log("fabmon.spool")

ASIDE: Final = "set-aside"
ID: Final = "id"
SHORTEST_LINE: Final = 13  # `CRC32 1 {}` and its line break
_OURS: Final = (BOOKS, VERSION_1, DEAD, ID)
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
    for entry in disk.list(directory):
        first = first_seq_of(entry.name)
        if not entry.is_file and (first is not None or entry.name in _OURS):
            set_aside(disk, directory, entry.name, "no plain file")
        elif first is not None:
            found[first] = entry
        elif entry.name.endswith(SUFFIX):
            log.warning("spool.strange_file", file=entry.name, action="left alone")
    segments: list[Segment] = []
    for first, entry in sorted(found.items()):
        segment = _look(disk, directory, first, entry, set(found))
        if segment is not None:
            segments.append(segment)
    return sorted(segments, key=lambda segment: segment.first)


def last_sequence(disk: Disk, directory: Path, segment: Segment) -> int:
    """The last sequence that the newest segment gave out.

    A damaged line with its line break was one event; a rest without is a write that a crash cut short.
    """
    last = segment.first - 1
    try:
        for _, item in read_segment(disk, path_of(directory, segment.first)):
            if isinstance(item, Record):
                last = max(last, item.seq)
                continue
            segment.damaged = True
            log.warning("spool.damaged", file=item.file, offset=item.offset, bytes=item.length, torn=item.torn)
            # Random bytes have line breaks too, but a record is never this short.
            if not item.torn and item.length >= SHORTEST_LINE:
                last += 1
    except OSError as error:
        log.error("spool.unreadable", file=segment.first, reason=error.strerror)
        return max(last, segment.first + segment.size // SHORTEST_LINE)
    return last


def set_aside(disk: Disk, directory: Path, name: str, reason: str) -> bool:
    """Move *name* into `set-aside`, under a name that is free there; False when the disk refuses."""
    try:
        disk.make_directory(directory / ASIDE)
        taken = {entry.name for entry in disk.list(directory / ASIDE)}
        target = next(each for number in range(1, 10**6) if (each := f"{name}.{number}") not in taken)
        disk.rename(directory / name, directory / ASIDE / target)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.error("spool.not_set_aside", file=name, why=reason, reason=error.strerror)
        return False
    # Should the names not become durable, a crash brings the file back, and it is moved again.
    with suppress(OSError):
        disk.fsync_directory(directory / ASIDE)
        disk.fsync_directory(directory)
    log.warning("spool.set_aside", file=name, why=reason, kept_as=f"{ASIDE}/{target}")
    return True


def _look(disk: Disk, directory: Path, first: int, entry: Entry, names: set[int]) -> Segment | None:
    """The segment behind *entry*, or None when it was moved away or deleted."""
    path = directory / entry.name
    segment = Segment(first, entry.size, None, entry.modified_at)
    try:
        if not entry.size:
            disk.unlink(path)
            return None
        header = read_header(disk, path)
        if header is not None and header.version not in READABLE:
            log.warning("spool.other_version", file=entry.name, version=header.version, action="reading what is whole")
        if header is not None and header.first_seq == first:
            segment.begun_at = header.begun_at
            segment.damaged = header.version not in READABLE
            return segment
        segment.damaged = True
        if header is not None and header.first_seq not in names and header.first_seq > 0:
            # Somebody gave it another name; its records say where it belongs.
            segment.first, segment.begun_at = header.first_seq, header.begun_at
            names.add(header.first_seq)
            disk.rename(path, path_of(directory, header.first_seq))
            log.warning("spool.renamed", file=entry.name, first_sequence=header.first_seq)
            return segment
        for behind, item in read_segment(disk, path):
            if isinstance(item, Record) and item.seq >= first:
                return segment
            if behind > _LOOK_BYTES:
                break
    except OSError as error:
        # Reading it will be tried again, and given up after a few times.
        log.error("spool.unreadable", file=entry.name, reason=error.strerror)
        return segment
    return None if set_aside(disk, directory, entry.name, "holds no record") else segment
