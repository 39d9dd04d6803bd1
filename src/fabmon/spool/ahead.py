"""Reading a queue of segments from a position on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fabmon.errors import SpoolFailed
from fabmon.logs import Log
from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record
from fabmon.spool.segment import path_of, read_segment
from fabmon.spool.survey import Segment

log = Log("fabmon.spool")

# A segment that cannot be read is tried this often before what it holds counts as unreadable.
MOST_READ_FAILURES: Final = 5


def records_ahead(
    disk: Disk, directory: Path, segments: Sequence[Segment], start: tuple[int, int], after: int, end: int
) -> Iterator[tuple[Record, int, int]]:
    """Whole records behind sequence *after* and before *end*, each with its segment and the offset behind it.

    *start* is the segment and offset to begin at. Damage is passed over and marked in its segment. Raises SpoolFailed
    when the disk will not say what a segment holds; after a few times it is passed over too.
    """
    last = after
    for place, segment in enumerate(segments):
        bound = segments[place + 1].first if place + 1 < len(segments) else end
        if segment.first < start[0] or bound <= last + 1:
            continue
        path = path_of(directory, segment.first)
        offset = start[1] if segment.first == start[0] else 0
        try:
            for behind, item in read_segment(disk, path, offset, segment.size):
                if not isinstance(item, Record):
                    if not segment.damaged:
                        log.warning("spool.damaged", file=item.file, offset=item.offset, bytes=item.length)
                    segment.damaged = True
                elif last < item.seq < bound:
                    last = item.seq
                    yield item, segment.first, behind
                elif not segment.first <= item.seq < bound:
                    segment.damaged = True  # a record of another place: not delivered from here, but kept
            segment.failures = 0
        except OSError as error:
            segment.failures += 1
            segment.damaged = True
            log.error("spool.unreadable", file=path.name, reason=error.strerror, failures=segment.failures)
            if not isinstance(error, FileNotFoundError) and segment.failures < MOST_READ_FAILURES:
                raise SpoolFailed(f"{path.name} cannot be read: {error.strerror}") from error
