"""Segments that are kept, in `set-aside`, though all of their events have found their end.

On a full disk a dead letter cannot be written, and the spool itself may be what fills it. The refused event lies in its
segment: that one is kept instead of deleted, and what comes behind it can be delivered. The books say which ones.
"""

from bisect import bisect_right
from collections.abc import Sequence

from fabmon.errors import SpoolFailed
from fabmon.logs import Log
from fabmon.spool.books import MOST_KEPT, Books
from fabmon.spool.dead import Letter
from fabmon.spool.survey import Segment

log = Log("fabmon.spool")


def keep_segments(segments: Sequence[Segment], books: Books, letters: Sequence[Letter] = (), why: str = "") -> None:
    """Keep those that *books* name, and those of *letters*, which the books name now.

    Raises SpoolFailed when they are too many for the books, which are as they were then.
    """
    of_letters = {_segment_of(segments, letter.record.seq).first for letter in letters}
    keep = sorted({segment.first for segment in segments if segment.first in books.keep} | of_letters)
    if len(keep) > MOST_KEPT:
        raise SpoolFailed(f"{why}; {len(keep)} segments cannot be kept for them")
    for segment in segments:
        segment.damaged |= segment.first in keep
    books.keep = keep
    if letters:
        log.error(
            "spool.letters_kept", events=len(letters), reason=why, first_code=letters[0].code,
            first_detail=letters[0].detail, action="their segments will be in set-aside",
        )  # fmt: skip


def _segment_of(segments: Sequence[Segment], seq: int) -> Segment:
    return segments[bisect_right(segments, seq, key=lambda segment: segment.first) - 1]
