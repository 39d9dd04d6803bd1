"""How long events have waited, by a clock that only grows: a step of the wall clock changes nothing while we run.

Events of the last hour or more are known to a second. Of those before, and of what an earlier process left, the segment's
first line says when it was begun; a segment takes events for a minute, and longer when there are many.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from fabmon.clock import monotonic, now
from fabmon.spool.survey import Segment

# A segment takes events for this long: the age of what it holds is known as well after a restart.
SEGMENT_SECONDS: Final = 60.0
# The more there are, the longer: a trickle that nobody takes makes 440 segments in a day, 2,800 in a month, and the next
# start looks at each. What has waited for days need not be known to the minute.
_SEGMENTS_OF_A_MINUTE: Final = 100
_MARK_SECONDS: Final = 1.0
_MOST_MARKS: Final = 8192


class Ages:
    def __init__(self, segments: Sequence[Segment]) -> None:
        at, wall = monotonic(), now().timestamp()
        # What lies in the future was written under another clock: it begins to age now.
        self._newest = {segment.first: at - max(0.0, wall - segment.modified_at) for segment in segments}
        self._oldest = {
            segment.first: at - max(0.0, wall - (segment.begun_at or segment.modified_at)) for segment in segments
        }
        self._marks: list[tuple[int, float]] = []  # sequence and the time at which it was appended
        self._newest_first = 0

    def begun(self, first: int) -> None:
        """A segment was begun."""
        self._newest_first = first
        self._oldest[first] = self._newest[first] = monotonic()

    def appended(self, seq: int) -> None:
        """Events from *seq* on were added to the newest segment."""
        at = monotonic()
        self._newest[self._newest_first] = at
        if not self._marks or at - self._marks[-1][1] >= _MARK_SECONDS:
            self._marks.append((seq, at))
        if len(self._marks) > _MOST_MARKS:
            self._marks = self._marks[_MOST_MARKS // 2 :]  # a new list: the event loop may be looking into the old one

    def forget(self, first: int) -> None:
        self._oldest.pop(first, None)
        self._newest.pop(first, None)

    def age_of(self, seq: int, segments: Sequence[Segment]) -> float:
        """Seconds that the event *seq* has waited, at most."""
        marks = self._marks
        if marks and seq >= marks[0][0]:
            place = bisect_right(marks, seq, key=lambda mark: mark[0])
            return monotonic() - marks[place - 1][1]
        place = bisect_right(segments, seq, key=lambda segment: segment.first)
        segment = segments[max(0, place - 1)] if segments else None
        return 0.0 if segment is None else monotonic() - self._oldest.get(segment.first, monotonic())

    def least_age_of(self, segment: Segment) -> float:
        """Seconds that the newest event of *segment* has waited."""
        return monotonic() - self._newest[segment.first]

    def is_newest_old(self, segments: int) -> bool:
        """Whether the newest of so many segments has taken events for long enough."""
        seconds = SEGMENT_SECONDS * (1 + segments / _SEGMENTS_OF_A_MINUTE)
        return monotonic() - self._oldest.get(self._newest_first, 0.0) > seconds
