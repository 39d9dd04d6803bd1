"""The mark of a living `fabmon run` on disk, and what becomes of it.

    DATA_DIR/unsent/<address>-<id>.run      the start of a run, locked by the process that watches over it
    DATA_DIR/unsent/<address>-<id>.jsonl    the same file with the end of the run in it: events to be sent (files.py)
    DATA_DIR/unsent-<address>.sender        locked by the one process that sends (sdk/sender.py); in it: what troubled it

A mark that nobody locks belongs to a process that was killed. Whoever finds it (lost.py) says so of the run.
"""

from __future__ import annotations

import os
import sys

from fabmon.durable import can_lock, lock, open_plain


class Mark:
    """Of one run, from its start to its end."""

    def __init__(self, place: str, name: str, started: bytes) -> None:
        """In the directory *place*, with the event *started*. Raises OSError."""
        if not can_lock():
            raise OSError("no locks here")
        os.makedirs(place, mode=0o700, exist_ok=True)
        self._base = f"{place}/{name}"
        self._file = open_plain(f"{self._base}.run.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            lock(self._file)
            os.write(self._file, started + b"\n")
            os.rename(f"{self._base}.run.new", f"{self._base}.run")
        except OSError:
            os.close(self._file)
            os.unlink(f"{self._base}.run.new")
            raise

    def complete(self, ended: bytes) -> None:
        """Add the event *ended*: from now on the file is to be sent. Raises OSError."""
        line = ended + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the disk is full")
        os.rename(f"{self._base}.run", f"{self._base}.jsonl")
        os.close(self._file)

    def remove(self) -> None:
        """The end of the run is sent, or kept elsewhere. Raises OSError."""
        try:
            os.unlink(f"{self._base}.run")
        finally:
            os.close(self._file)


def send_soon(place: str, address: str, url: str) -> str:
    """See to it that a process of its own sends what waits in *place* for *address*, now or very soon.

    There is one of them at most. The answer: what troubled the last one, in a line. Raises OSError.
    """
    descriptor = open_plain(f"{place}-{address}.sender", os.O_RDWR | os.O_CREAT)
    try:
        trouble = os.read(descriptor, 1000).decode(errors="replace")
        if lock(descriptor):  # the lock is the sender's from the start: it inherits the open file
            _start_sender(descriptor, url)
        return trouble
    finally:
        os.close(descriptor)


def _start_sender(descriptor: int, url: str) -> None:
    """It has a session of its own, so no signal of ours reaches it, and none of our open files but *descriptor*."""
    os.set_inheritable(descriptor, True)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "fabmon.sdk.sender", url, str(descriptor)],
        os.environ,
        file_actions=[
            *((os.POSIX_SPAWN_OPEN, standard, "/dev/null", os.O_RDWR, 0) for standard in range(3)),
            *((os.POSIX_SPAWN_CLOSE, other) for other in _inheritable() if other not in (0, 1, 2, descriptor)),
        ],
        setsid=True,
        setsigmask=[],
    )


def _inheritable() -> list[int]:
    found = []
    for name in os.listdir("/dev/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            continue  # the one that the list was read with
    return found
