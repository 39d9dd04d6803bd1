"""From a job to its sidecar, at no cost to the job. Used by the SDK and by `fabmon run` alike.

`Emitter.send` puts an event into a bounded queue and returns; one background thread posts what waits, in batches over one
kept-alive connection (post.py). A sidecar that is away is tried again after 1, 2, 4 ... 60 seconds. What it has not taken
goes to disk (unsent/files.py) at once, so that little is lost with a process that is killed, and the queue stays short
however long the sidecar is away, or silent. It is sent by this process when the sidecar is back, or by the next one.

Never raises into the caller, never waits; `close` waits for at most the given time.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fabmon.clock import monotonic
from fabmon.errors import FabmonError, PeerRefused
from fabmon.sdk.address import Address, unsent_place
from fabmon.sdk.events import Draft
from fabmon.sdk.post import Post
from fabmon.unsent import files

QUEUE_LIMIT_EVENTS: Final = 20_000
QUEUE_LIMIT_BYTES: Final = 16 * 1024 * 1024
# More than this waits neither for an answer nor for a retry: it goes to disk.
SPILL_EVENTS: Final = 1_000
SPILL_BYTES: Final = 1024 * 1024
# When even the disk is slower than the job's calls, each of them gives way for a moment, far below a millisecond.
GIVE_WAY_EVENTS: Final = 5_000
GIVE_WAY_BYTES: Final = 4 * 1024 * 1024
GIVE_WAY_SECONDS: Final = 0.0003
BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 256 * 1024

# What is sent within this time travels together; it is also what a `kill -9` may cost.
LINGER_SECONDS: Final = 0.02
FLUSH_SECONDS: Final = 2.0
LEFTOVERS_SECONDS: Final = 0.5
LEFTOVERS_EVERY_SECONDS: Final = 30.0
FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0
_DISK_PATIENCE_SECONDS: Final = 1.0


class Emitter:
    """Sends the events of one process, or of one run of a program."""

    def __init__(self, address: Address, name: str, environment: Mapping[str, str] = os.environ) -> None:
        self._lock = threading.RLock()  # a signal handler may report, too
        self._changed = threading.Condition(self._lock)
        self._pending: deque[bytes | Draft] = deque()
        self._pending_bytes = 0
        self._in_flight: list[bytes | Draft] = []
        self._idle = self._closing = False
        self._dropped = 0
        self._disk = threading.Lock()
        self._shelf = files.Shelf(lambda: Path(unsent_place(environment)), f"{address.short_name}-{name}")
        self._environment = environment
        self._address = address
        self._post = Post(address, environment, self._relieve)
        self._silent = False
        self._next_leftovers = 0.0
        self._leftovers_until: float | None = None
        self._trouble: str | None = None
        self._lost: str | None = None
        self._thread: threading.Thread | None = None

    def send(self, event: bytes | Draft) -> None:
        """Take an event, as JSON or to be made into it, for sending; one too many is dropped, and `trouble` says so."""
        size = _size(event)
        with self._lock:
            if len(self._pending) >= QUEUE_LIMIT_EVENTS or self._pending_bytes + size > QUEUE_LIMIT_BYTES:
                self._dropped += 1
                return
            self._pending.append(event)
            self._pending_bytes += size
            if self._idle and (len(self._pending) == 1 or self._too_much_waits()):
                self._changed.notify()
        if self._closing:
            self._keep()
        elif self._thread is None:
            self._start()
        elif len(self._pending) >= GIVE_WAY_EVENTS or self._pending_bytes >= GIVE_WAY_BYTES:
            time.sleep(GIVE_WAY_SECONDS)

    def close(self, last: bytes | None = None, within_seconds: float = FLUSH_SECONDS) -> str | None:
        """Send what is left, or keep it on disk, and stop. The answer: see `trouble`."""
        if last is not None:
            self.send(last)
        with self._changed:
            self._leftovers_until = monotonic() + min(within_seconds, LEFTOVERS_SECONDS)
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(within_seconds)
        self._keep()
        return self.trouble

    def flush(self, within_seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until everything was sent or is on disk; False when that took too long."""
        deadline = monotonic() + within_seconds
        pause = threading.Event()
        while self._has_some():
            if monotonic() > deadline:
                return False
            pause.wait(0.005)
        if not self._disk.acquire(timeout=max(0.0, deadline - monotonic())):
            return False
        self._disk.release()
        return True

    @property
    def trouble(self) -> str | None:
        """One line about what needs a person: events that were refused, or lost; else None."""
        if self._dropped:
            return f"events came faster than they could be sent or kept; {self._dropped} are lost"
        return self._lost or self._trouble

    def _has_some(self) -> bool:
        with self._lock:  # between two of its holders an event may be in neither
            return bool(self._pending or self._in_flight)

    def _too_much_waits(self) -> bool:
        return len(self._pending) >= SPILL_EVENTS or self._pending_bytes >= SPILL_BYTES

    def _start(self) -> None:
        with self._changed:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="fabmon-emitter", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter ends: `close` keeps the events
                return
            self._thread = thread

    def _work(self) -> None:
        delay = FIRST_RETRY_SECONDS
        retry_at = 0.0
        closing = False
        while not closing:
            closing = self._wait(retry_at)
            # A sidecar that was silent a moment ago is not waited for once more at the end.
            if (closing and self._silent) or (not closing and monotonic() < retry_at):
                self._keep()
                continue
            try:
                self._send_all()
                delay, retry_at, self._silent = FIRST_RETRY_SECONDS, 0.0, False
            except Exception as error:  # noqa: BLE001  (a job must not see a traceback of its monitoring)
                self._trouble = what_needs_a_person(error)
                self._silent = isinstance(error, TimeoutError)
                self._next_leftovers = 0.0
                retry_at, delay = monotonic() + delay, min(2 * delay, LONGEST_RETRY_SECONDS)
                self._keep()
        self._post.close()

    def _wait(self, retry_at: float) -> bool:
        """Until there is something to send, or it is time to try again; True when this is the end."""
        with self._changed:
            self._idle = True
            until_retry = max(0.0, retry_at - monotonic()) if retry_at else None
            self._changed.wait_for(lambda: self._pending or self._closing, until_retry)
            if self._pending:
                self._changed.wait_for(lambda: self._closing or self._too_much_waits(), LINGER_SECONDS)
            self._idle = False
            return self._closing

    def _send_all(self) -> None:
        """Everything that waits here; then, now and then, what is on disk."""
        self._send_own()
        self._trouble = None
        if monotonic() < self._next_leftovers and not self._closing:
            return
        with self._disk:
            self._shelf.turn_the_page()
        with files.claims(Path(unsent_place(self._environment)), self._address.short_name) as found:
            for claimed in found:
                files.deliver(self._post.batch, claimed, self._go_on)
                if self._is_late():
                    break
        self._next_leftovers = monotonic() + LEFTOVERS_EVERY_SECONDS

    def _send_own(self) -> None:
        while lines := self._take():
            self._lost = self._post.batch(lines) or self._lost
            self._in_flight = []
            self._relieve()

    def _take(self) -> list[bytes]:
        """The next batch, which is in flight then; empty when nothing waits."""
        taken: list[bytes | Draft] = []
        size = 0
        with self._changed:
            while self._pending and len(taken) < BATCH_EVENTS and size < BATCH_BYTES:
                taken.append(self._pending.popleft())
                size += _size(taken[-1])
            self._pending_bytes -= size
            self._in_flight = taken
        lines = self._lines(taken)  # without the lock, which the job's calls need
        with self._changed:
            if self._in_flight is not taken:  # `close` had no time left: they are on disk, under keys of their own
                return []
            self._in_flight = [*lines]
        return lines

    def _go_on(self) -> bool:
        """Between two batches of leftovers."""
        self._send_own()  # the fresh ones go first
        return not self._is_late()

    def _is_late(self) -> bool:
        return self._leftovers_until is not None and monotonic() > self._leftovers_until

    def _relieve(self) -> None:
        if self._too_much_waits():
            self._keep(in_flight=False)
            self._next_leftovers = 0.0  # they are sent as soon as nothing fresh waits

    def _keep(self, *, in_flight: bool = True) -> None:
        """Move what waits to disk; what the disk does not take stays, and is lost at the end."""
        if not self._disk.acquire(timeout=_DISK_PATIENCE_SECONDS):
            self._lost = "the disk does not answer; what the sidecar has not taken is lost"
            return
        lines: list[bytes] = []
        try:
            with self._changed:
                taken = [*self._in_flight, *self._pending] if in_flight else [*self._pending]
                if in_flight:
                    self._in_flight = []
                self._pending.clear()
                self._pending_bytes = 0
            lines = self._lines(taken)
            self._shelf.add(lines)
        except OSError as error:
            self._lost = f"the sidecar is away, and events cannot be kept: {error}"
            with self._changed:
                self._pending.extendleft(reversed(lines))
                self._pending_bytes += sum(map(len, lines))
        finally:
            self._disk.release()

    def _lines(self, events: list[bytes | Draft]) -> list[bytes]:
        """Each as JSON; a defect of ours costs the event that has it, and no other."""
        lines = []
        for event in events:
            try:
                lines.append(event if isinstance(event, bytes) else event.line())
            except Exception as error:  # noqa: BLE001  (the thread must go on)
                self._lost = f"an event has no JSON and is lost: {type(error).__name__}: {error}"
        return lines


def _size(event: bytes | Draft) -> int:
    return len(event) if isinstance(event, bytes) else event.about_bytes


def what_needs_a_person(error: Exception) -> str | None:
    """A sidecar that is away or busy comes back by itself; a wrong token, a wrong URL or a bug does not."""
    if isinstance(error, PeerRefused):
        return None if error.status >= 500 or error.status in (408, 429) else str(error)
    if isinstance(error, FabmonError):
        return str(error)
    client = sys.modules.get("http.client")  # whoever raised its errors has imported it
    comes_back_by_itself = isinstance(error, OSError) or (client and isinstance(error, client.HTTPException))
    return None if comes_back_by_itself else f"{type(error).__name__}: {error}"
