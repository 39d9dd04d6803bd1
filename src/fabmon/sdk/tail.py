"""The end of a program's standard error.

A file, as with `2>log`: it is read once the program has failed. A pipe, as under cron or a scheduler: a child of ours, the
copier, takes what the program writes and writes it on; it keeps the last 4 KiB. The copier lives as long as anybody holds
the program's end, so the program and what it leaves in the background outlive us without SIGPIPE; the reader sees the end
when the last of them closes, as without us. If stdout is the same pipe (`2>&1 |`), both go through the copier, or their
order would be lost. A terminal stays the program's own, and so does a socket (journald tells who wrote by the process).
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

TAIL_BYTES: Final = 4096
# How long the copier is waited for when nobody reads what it copies.
LAST_WORDS_SECONDS: Final = 0.5
_READ_BYTES: Final = 64 * 1024
_IGNORED_BY_COPIER: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class Tail:
    """What a program is going to write to stderr; of what kind that is decides what can be read of it."""

    file_actions: tuple[Any, ...] = ()
    """For posix_spawn."""
    pid = 0
    """Of a child of ours that is none of the program's; 0 for none."""

    def read(self) -> str | None:
        """The last 4 KiB, once the program has ended; None when there is nothing or it cannot be known."""
        return None


def tail_of_stderr() -> Tail:
    if sys.platform == "win32":
        return Tail()
    try:
        streams = [os.fstat(descriptor) for descriptor in range(3)]
        if stat.S_ISREG(streams[2].st_mode):
            return _OfFile(streams[2].st_size)
        if stat.S_ISFIFO(streams[2].st_mode):
            same = os.path.samestat(streams[1], streams[2])
            return _OfPipe((1, 2) if same else (2,))
    except OSError:
        pass  # a closed one, or no more descriptors or processes: then without
    return Tail()


class _OfFile(Tail):
    def __init__(self, begin: int) -> None:
        self._begin = begin

    def read(self) -> str | None:
        try:
            end = os.fstat(2).st_size
            begin = max(self._begin if end > self._begin else 0, end - TAIL_BYTES)  # shorter: it was emptied meanwhile
            file = os.open("/dev/fd/2", os.O_RDONLY)
            try:
                return _text(os.pread(file, end - begin, begin)) if end != self._begin else None
            finally:
                os.close(file)
        except OSError:
            return None


class _OfPipe(Tail):
    def __init__(self, descriptors: tuple[int, ...]) -> None:
        reader, self._writer = os.pipe()
        asked, self._ask = os.pipe()
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _copier(reader, asked, answering)
            finally:
                os._exit(0)
        for descriptor in (reader, asked, answering):
            os.close(descriptor)
        self.file_actions = tuple((os.POSIX_SPAWN_DUP2, self._writer, descriptor) for descriptor in descriptors)

    def read(self) -> str | None:
        import select

        os.close(self._writer)
        os.close(self._ask)  # which is the question
        found = b""
        answer = select.poll()
        answer.register(self._answer, select.POLLIN)
        while answer.poll(LAST_WORDS_SECONDS * 1000) and (part := os.read(self._answer, TAIL_BYTES)):
            found += part
        os.close(self._answer)
        return _text(found)


def _copier(reader: int, asked: int, answering: int) -> None:
    """Copy until the last writer has gone. Once asked, when all that was written before is copied, answer the tail."""
    import select

    from fabmon.sdk.signals import signals

    for name in _IGNORED_BY_COPIER:
        signals.signal(getattr(signals, name), signals.SIG_IGN)
    # Whatever else is open is not ours to hold: a lock, or the stdout that someone waits to see the end of.
    os.dup2(reader, 0)
    os.dup2(answering, 1)
    os.dup2(asked, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    ready, room = select.poll(), select.poll()
    ready.register(0, select.POLLIN)
    ready.register(3, select.POLLIN)
    room.register(2, select.POLLOUT)
    tail = b""
    while True:
        if 0 not in dict(ready.poll()):  # asked, or the one who could ask is gone
            _answer(tail)
            ready.unregister(3)
            continue
        part = os.read(0, _READ_BYTES)
        if not part:
            return _answer(tail)  # a second one finds nobody
        tail = (tail + part)[-TAIL_BYTES:]
        while part:
            try:
                part = part[os.write(2, part) :]
            except BlockingIOError:
                room.poll()


def _answer(tail: bytes) -> None:
    try:
        os.write(1, tail)
        os.close(1)
    except OSError:
        return


def _text(found: bytes) -> str | None:
    return found.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}").strip() or None
