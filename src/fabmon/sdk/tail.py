"""The end of a program's standard error, where it can be had without standing in between.

If stderr is a file, as with `2>log`, the file is read once the program has failed. A terminal, a pipe or a socket
(journald) is not read: a copy would need a pipe of ours in the middle, and the program would no longer see the terminal,
could be held up by us, and would die of our death.
"""

import os
import stat
import sys
from typing import Final

TAIL_BYTES: Final = 4096


class Tail:
    """What is written to *descriptor* from now on."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._begin = self._size()

    def read(self) -> str | None:
        """The last 4 KiB; None when there is nothing or it cannot be read."""
        end = self._size()
        if self._begin is None or end is None or end == self._begin or sys.platform == "win32":
            return None
        begin = max(self._begin if end > self._begin else 0, end - TAIL_BYTES)  # shorter: it was emptied meanwhile
        try:
            file = os.open(f"/dev/fd/{self._descriptor}", os.O_RDONLY)
            try:
                found = os.pread(file, end - begin, begin)
            finally:
                os.close(file)
        except OSError:
            return None
        return found.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}").strip() or None

    def _size(self) -> int | None:
        try:
            found = os.fstat(self._descriptor)
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None
