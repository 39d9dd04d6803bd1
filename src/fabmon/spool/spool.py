"""The spool as the event loop sees it: a durable queue that many requests share.

All file work happens on one thread of its own, in order, so that nothing of it is interrupted half-way when a request is
cancelled. Events that wait while an fsync runs share the next one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from fabmon.clock import monotonic
from fabmon.durable import lock_directory
from fabmon.errors import SpoolFailed, SpoolFull, StartError
from fabmon.spool.books import Books
from fabmon.spool.dead import Letter
from fabmon.spool.disk import Disk
from fabmon.spool.files import SpoolFiles
from fabmon.spool.frame import Record
from fabmon.spool.identity import Identity
from fabmon.spool.limits import Limits, lack
from fabmon.spool.thread import FileThread

T = TypeVar("T")
# By then who was refused comes again, as he was told; nothing else may come into the spool of a site that is there.
_REFUSAL_SECONDS: Final = 30.0
# One write takes no more than these and one request; what comes behind shares the next.
_GROUP_EVENTS: Final = 10_000
_Waiting = tuple[Sequence[bytes], asyncio.Future[None]]


@asynccontextmanager
async def open_spool(directory: Path, limits: Limits | int, disk: Disk | None = None) -> AsyncIterator["Spool"]:
    """The spool in *directory*, made when it is not there, and held by this process alone.

    *limits* may be the most bytes alone. Raises StartError when another process holds it or it cannot be written.
    """
    given = Limits(limits) if isinstance(limits, int) else limits
    try:
        lock = lock_directory(directory)
    except OSError as error:
        raise StartError(f"FABMON_SPOOL_DIR: {directory} cannot be used: {error.strerror}") from error
    async with FileThread() as thread:
        try:
            try:
                files = await asyncio.wrap_future(thread.ask(partial(SpoolFiles, directory, given, disk)))
            except OSError as error:
                raise StartError(f"FABMON_SPOOL_DIR: {directory} cannot be read: {error.strerror}") from error
            spool = Spool(files, thread, Identity(directory))
            try:
                yield spool
            finally:
                spool.close()
        finally:
            thread.post(lock.close)  # behind the last of the work, also where nobody waits for that


class Spool:
    """Use it through `open_spool`."""

    def __init__(self, files: SpoolFiles, thread: FileThread, identity: Identity) -> None:
        self.id = identity.id
        self._identity = identity
        self._files = files
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._grown = asyncio.Event()
        self._refusal = (
            "",
            float("-inf"),
        )  # why the disk refused events, and when; "" once some were taken, or made room
        self._is_closing = False
        self._ahead: Future[None] | None = None
        self._counting: asyncio.Future[None] | None = None

    @property
    def directory(self) -> Path:
        return self._files.directory

    @property
    def pending(self) -> int:
        """Events that are on disk and have not found their end."""
        return self._files.pending

    @property
    def accepted(self) -> int:
        """Every event that this spool ever took."""
        return self._files.accepted

    @property
    def books(self) -> Books:
        """What became of the events that are not pending; with those it is `accepted`, always."""
        return self._files.books

    @property
    def last_seq(self) -> int:
        """The sequence of the newest event; 0 before the first."""
        return self._files.accepted

    @property
    def size_bytes(self) -> int:
        return self._files.size_bytes

    @property
    def max_bytes(self) -> int:
        return self._files.limits.max_bytes

    @property
    def dead_letters(self) -> int:
        """Letters in `dead.jsonl` now; `books.dead` counts all that ever were."""
        return self._files.dead.letters.count

    def full(self) -> str | None:
        """Why the next event would be refused, or None. A failure of the last half minute speaks for the next."""
        why, at = self._refusal
        if why and monotonic() - at < _REFUSAL_SECONDS:
            return why
        try:
            return lack(self._files.limits, self.size_bytes, self._files.free_bytes())
        except OSError as error:
            return f"{self.directory} cannot be read: {error.strerror}"

    def append(self, raws: Sequence[bytes]) -> asyncio.Future[None]:
        """Done when every event is durable; what waits at the same time shares one fsync.

        Fails with SpoolFull (the bound, or the disk) or SpoolFailed; then none of *raws* counts as kept. Cancelled while it
        waits, the events may be kept or not.
        """
        if self._thread.is_closed:
            raise RuntimeError("the spool is closed")
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((raws, done))
        if len(self._waiting) == 1:
            # After all that runs in this turn of the loop: the thread finds all of their events, and wakes up once.
            self._loop.call_soon(self._hand_over)
        return done

    async def read(self, max_events: int = 1000, max_bytes: int = 4 * 1024 * 1024) -> list[Record]:
        """The oldest events that are not acknowledged, without waiting; the first one always comes, whatever its size.

        Empty when nothing is pending that could be read. Raises SpoolFailed.
        """
        ahead = self._ahead
        records = await self._on_thread(lambda: self._files.read(max_events, max_bytes))
        if ahead is not None:
            ahead.result()  # done, as it came first on the thread; raises what no disk explains
        if len(records) > 1:
            self._ahead = self._thread.ask(partial(self._files.read_ahead, max_events, max_bytes))
        return records

    async def acknowledge(self, seq: int, letters: Sequence[Letter] = ()) -> None:
        """Everything up to *seq* has found its end: *letters* become dead letters, the rest was delivered.

        Raises SpoolFailed when the dead letters cannot be kept; nothing is acknowledged then.
        """
        await self._on_thread(lambda: self._files.acknowledge(seq, letters))
        self._refusal = ("", 0.0)

    def oldest_pending_age(self) -> float | None:
        """How long the oldest pending event has waited, in seconds; None when nothing is pending."""
        return self._files.oldest_pending_age()

    async def look_at_dead_letters(self) -> int:
        """Count the dead letters again, should a person have taken some out. Raises SpoolFailed."""
        try:
            return await asyncio.to_thread(self._files.dead.letters.look)
        except OSError as error:
            raise SpoolFailed(f"{self.directory} cannot be read: {error.strerror}") from error

    def recount_dead_letters(self) -> None:
        """Have them counted again soon, should a person have taken some out."""
        if self._counting is None or self._counting.done():
            self._counting = self._loop.run_in_executor(None, self._count_dead_letters)

    async def tidy(self) -> None:
        """Remove what was delivered, should the disk have refused that then: it counts towards the bound."""
        if self.size_bytes and not self.pending:
            await self._on_thread(self._files.tidy)

    async def wait(self) -> None:
        """Return when something is pending."""
        while not self.pending:
            self._grown.clear()
            await self._grown.wait()

    def close(self) -> None:
        """Write what waits, and leave everything so that the next start knows exactly what was given out."""
        self._is_closing = True
        self._thread.post(self._write_waiting)
        self._thread.post(self._files.close)

    def _count_dead_letters(self) -> None:
        with suppress(OSError):  # who looks at the health hears of it
            self._files.dead.letters.look()

    def _hand_over(self) -> None:
        if self._waiting and not self._is_closing:  # else `close` has them written
            self._thread.post(self._write_waiting)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._thread.ask(work))

    def _write_waiting(self) -> None:
        """On the thread: one write and one fsync for all that wait now; of very many, for as many as a group takes."""
        while self._write_group():
            if self._is_closing:
                continue
            with suppress(RuntimeError):  # closed since; then it is all written here
                self._thread.post(self._write_waiting)  # behind what else was asked for
                return

    def _write_group(self) -> bool:
        """Whether there may be more, which nobody else will write."""
        taken: list[_Waiting] = []
        group: list[bytes] = []
        with suppress(IndexError):  # empty: no length says so for certain while the loop appends
            while len(group) < _GROUP_EVENTS:
                taken.append(self._waiting.popleft())
                group += taken[-1][0]
        if not taken:
            return False
        is_full = len(group) >= _GROUP_EVENTS
        failure = self._write(group)
        if failure is None:
            self._loop.call_soon_threadsafe(self._kept, taken)
            if not is_full:
                self._files.make_blank()
                self._identity.keep()
            return is_full
        failures: list[Exception | None] = [failure] * len(taken)
        if isinstance(failure, SpoolFull) and len(taken) > 1:
            # Together they are too much; alone, one or the other may fit.
            failures = [self._write(raws) for raws, _ in taken]
        self._loop.call_soon_threadsafe(self._settle, taken, failures)
        return is_full

    def _write(self, raws: Sequence[bytes]) -> Exception | None:
        try:
            self._files.append(raws)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers that wait
            return error
        return None

    def _kept(self, waiting: Sequence[_Waiting]) -> None:
        self._refusal = ("", 0.0)
        for _, done in waiting:
            if not done.done():
                done.set_result(None)
        self._grown.set()

    def _settle(self, waiting: Sequence[_Waiting], failures: Sequence[Exception | None]) -> None:
        for (_, done), failure in zip(waiting, failures, strict=True):
            if failure is not None and not done.done():
                done.set_exception(failure)
        self._kept(waiting)
        last = failures[-1]
        if all(failures) and not (isinstance(last, SpoolFull) and last.__cause__ is None):
            # The disk's; what the bounds lack is known without a refusal, and what is too large for them is not full.
            self._refusal = (str(last), monotonic())
