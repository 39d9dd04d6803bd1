"""How many dead letters there are: a person may take some out at any time, and the file may have grown to gigabytes.

So it is read only when somebody else changed it, beside the spool's own thread: no event waits for it.
"""

import re
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

from fabmon.spool.disk import Disk

DEAD: Final = "dead.jsonl"
State = tuple[int, float] | None
"""Size and time of the last change; None when there is no file."""

# At the start a file of that size is counted at once; of a larger one the first who asks hears when it was.
_COUNTED_AT_START_BYTES: Final = 16 * 1024 * 1024
_BLOCK_BYTES: Final = 1024 * 1024
_BLANK_LINES: Final = re.compile(rb"\n{2,}")


class LetterCount:
    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._path = directory / DEAD
        self._lock = Lock()
        self._known: State = None  # the state in which there were `count`
        self.count = 0
        state = self.state()
        if state is not None and state[0] <= _COUNTED_AT_START_BYTES:
            self.look()

    def state(self) -> State:
        found = self._disk.entry(self._path)
        return (found.size, found.modified_at) if found is not None and found.is_file else None

    def look(self) -> int:
        """How many there are now, on whatever thread; raises OSError."""
        state = self.state()
        if state == self._known:
            return self.count
        number = 0
        if state is not None:
            with self._disk.open_read(self._path) as file:
                number = count_lines(file)
        with self._lock:
            if self.state() == state:  # else somebody went on writing, and the next look counts
                self.count, self._known = number, state
        return self.count

    def grew(self, before: State, letters: int) -> None:
        """We have added so many to what was there in the state *before*."""
        with self._lock:
            if self._known == before:
                self.count, self._known = self.count + letters, self.state()


def count_lines(file: BinaryIO) -> int:
    """How many lines of *file* are not blank; reads it in pieces."""
    count = 0
    is_within_line = False
    while block := file.read(_BLOCK_BYTES):
        text = block if is_within_line else block.lstrip(b"\n")
        if text:
            text = _BLANK_LINES.sub(b"\n", text) if b"\n\n" in text else text
            count += text.count(b"\n")
            is_within_line = not text.endswith(b"\n")
    return count + is_within_line
