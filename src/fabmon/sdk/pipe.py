"""The pipe to which FABMON_EVENTS_FD leads; what is said on it: lines.py.

The descriptor is one digit wherever one is free, because `echo progress 0.5 >&$FABMON_EVENTS_FD` of a plain `sh` knows no
others. It is the writing end of a pipe; on Linux opened for reading, too, so that a program outlives the death of its
wrapper without SIGPIPE. Nothing waits for its end, which a daemon in the background may never give. Not on Windows.
"""

from __future__ import annotations

import os
import sys


class Pipe:
    """Made before the program starts."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        if sys.platform == "linux":
            self._open_for_both()
        os.set_inheritable(self.writer, True)

    def holds_something(self) -> bool:
        import select

        return bool(select.select([self.reader], [], [], 0)[0])

    def _open_for_both(self) -> None:
        try:
            both = os.open(f"/proc/self/fd/{self.writer}", os.O_RDWR)
        except OSError:
            return
        os.dup2(both, self.writer)
        os.close(both)
