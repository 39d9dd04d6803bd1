"""The report of one run of `fabmon run`: on disk at once, and sent without the program noticing.

A short run only writes its mark (unsent/mark.py), and leaves the sending to a process of its own. From `send_now` on, this
process sends by itself (emitter.py), in a thread; the mark then only says that it lives. So it does when there is nowhere
to write, and when what it leaves behind would be killed at its end: as the main process of a container or a service.
"""

from __future__ import annotations

import os

from fabmon.sdk.address import unsent_place
from fabmon.unsent.mark import Mark, send_soon
from fabmon.wire import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from fabmon.sdk.address import Address
    from fabmon.sdk.emitter import Emitter
    from fabmon.sdk.lines import Lines, Said
    from fabmon.sdk.pipe import Pipe


# systemd does so for a service; the others are the first processes of containers, with one child.
_ENDING_ALL: Final = ("systemd", "tini", "docker-init", "dumb-init", "catatonit")


class Report:
    def __init__(
        self, address: Address, url: str, run_id: str, event: Callable[..., dict[str, Any]], pipe: Pipe | None
    ):
        """*event*: `plain.event_of` for this run. *pipe*: where the program may say something."""
        self._address = address
        self._url = url
        self._run_id = run_id
        self._event = event
        self._pipe = pipe
        self._mark: Mark | None = None
        self._emitter: Emitter | None = None
        self._lines: Lines | None = None
        self._thread: Any = None
        self._started = b""

    def started(self, event: dict[str, Any]) -> None:
        self._started = plain.encode(event)
        try:
            self._mark = Mark(unsent_place(), f"{self._address.short_name}-{self._run_id}", self._started)
        except OSError:
            return  # nowhere to write: it is sent from here

    def send_now(self) -> None:
        """Do not leave the sending to another process; returns at once."""
        import threading

        self._thread = threading.Thread(target=self._send, name="fabmon-report", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads: at the end, then
            self._thread = None

    def last_words(self) -> int:
        """Take what the program has said; the number of lines that were not understood. Before `ended`."""
        if self._pipe is not None and self._thread is None and self._pipe.holds_something():
            self._send()
        if self._thread is not None:
            self._thread.join()
        if self._lines is None:
            return 0
        self._lines.stop()
        return self._lines.not_understood

    def ended(self, event: dict[str, Any]) -> str | None:
        """Bring the end on its way; what needs a person, in a line."""
        line = plain.encode(event)
        if self._thread is None and self._emitter is None and self._mark is not None and not _ends_all():
            try:
                self._mark.complete(line)
                self._mark = None
                trouble = send_soon(unsent_place(), self._address.short_name, self._url)
            except (OSError, NotImplementedError):
                pass
            else:
                return f"an earlier report: {trouble}" if trouble else None
        if self._emitter is None:
            self._send()
        said = self._emitter.close(line) if self._emitter is not None else None
        if self._mark is not None:
            self._mark.remove()
        return f"this job's report: {said}" if said else None

    def _send(self) -> None:
        from fabmon.sdk.emitter import Emitter

        self._emitter = Emitter(self._address, self._run_id)
        self._emitter.send(self._started)
        if self._pipe is not None:
            from fabmon.sdk.lines import Lines

            self._lines = Lines(self._pipe, self._say)

    def _say(self, said: Said) -> None:
        from fabmon.wire.codec import encode

        event = self._event(said.kind, plain.at(), "running", said.metrics, said.metadata)
        if self._emitter is not None:
            self._emitter.send(encode(event))


def _ends_all() -> bool:
    """Whether whoever started us will end all processes when we end: a container's first process, a service's main one."""
    if os.getpid() == 1:
        return True
    try:
        with open(f"/proc/{os.getppid()}/comm", encoding="utf-8") as file:
            return file.read().strip() in _ENDING_ALL
    except (OSError, UnicodeDecodeError):
        return False
