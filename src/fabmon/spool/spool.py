"""The spool as the event loop sees it: a durable queue that many requests share.

All file work happens on one thread of its own, in order, so that nothing of it is interrupted half-way when a request is
cancelled. Events that wait while an fsync runs share the next one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from fabmon.clock import now
from fabmon.errors import StartError
from fabmon.spool.durable import lock_directory
from fabmon.spool.files import SpoolFiles
from fabmon.spool.frame import Record
from fabmon.wire.codec import encode
from fabmon.wire.event import Rejection

T = TypeVar("T")


@asynccontextmanager
async def open_spool(directory: Path, max_bytes: int) -> AsyncIterator["Spool"]:
    """The spool in *directory*, made when it is not there, and held by this process alone.

    Raises StartError when another process holds it or it cannot be written.
    """
    try:
        lock = lock_directory(directory)
    except OSError as error:
        raise StartError(f"FABMON_SPOOL_DIR: {directory} cannot be used: {error.strerror}") from error
    with lock, ThreadPoolExecutor(1, thread_name_prefix="spool") as thread:
        try:
            files = await asyncio.get_running_loop().run_in_executor(thread, SpoolFiles, directory, max_bytes)
        except OSError as error:
            raise StartError(f"FABMON_SPOOL_DIR: {directory} cannot be read: {error.strerror}") from error
        try:
            yield Spool(files, thread)
        finally:
            thread.submit(files.close)


class Spool:
    """Use it through `open_spool`."""

    def __init__(self, files: SpoolFiles, thread: ThreadPoolExecutor) -> None:
        self._files = files
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[None]]] = []
        self._waiting_lock = Lock()
        self._grown = asyncio.Event()

    @property
    def directory(self) -> Path:
        return self._files.directory

    @property
    def pending(self) -> int:
        """Events that are on disk and not acknowledged."""
        return self._files.pending

    @property
    def last_seq(self) -> int:
        """The sequence of the newest event; 0 before the first."""
        return self._files.last_seq

    @property
    def size_bytes(self) -> int:
        return self._files.size_bytes

    @property
    def max_bytes(self) -> int:
        return self._files.max_bytes

    @property
    def dead_letters(self) -> int:
        return self._files.dead_letters

    async def append(self, raws: Sequence[bytes]) -> None:
        """Return when every event is durable; what waits at the same time shares one fsync.

        Raises SpoolFull (the bound, or the disk) or SpoolFailed; then none of *raws* counts as kept. Cancelled while it
        waits, the events may be kept or not.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        with self._waiting_lock:
            self._waiting.append((raws, done))
            first = len(self._waiting) == 1
        if first:
            self._thread.submit(self._write_waiting)
        await done

    async def read(self, max_events: int = 1000, max_bytes: int = 4 * 1024 * 1024) -> list[Record]:
        """The oldest events that are not acknowledged, without waiting; the first one always comes, whatever its size."""
        return await self._on_thread(lambda: self._files.read(max_events, max_bytes))

    async def acknowledge(self, seq: int) -> None:
        """Everything up to *seq* need not be read again."""
        await self._on_thread(lambda: self._files.acknowledge(seq))

    async def bury(self, letters: Sequence[tuple[Record, Rejection]]) -> None:
        """Keep events that the other side refused for good, each with the reason, in `dead.jsonl`."""
        at = encode(now())
        lines = [
            b'{"at":%b,"code":%b,"detail":%b,"event":%b}\n' % (at, encode(why.code), encode(why.detail), record.raw)
            for record, why in letters
        ]
        await self._on_thread(lambda: self._files.bury(lines))

    async def oldest_pending_age(self) -> float | None:
        """How long the oldest pending event has waited at most, in seconds; None when nothing is pending."""
        return await self._on_thread(self._files.oldest_pending_age)

    async def wait(self) -> None:
        """Return when something is pending."""
        while not self.pending:
            self._grown.clear()
            await self._grown.wait()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._thread, work)

    def _write_waiting(self) -> None:
        """On the thread: one write and one fsync for all that wait now."""
        with self._waiting_lock:
            taken, self._waiting = self._waiting, []
        failure: Exception | None = None
        try:
            self._files.append([raw for raws, _ in taken for raw in raws])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers that wait
            failure = error
        self._loop.call_soon_threadsafe(self._settle, [done for _, done in taken], failure)

    def _settle(self, waiting: Sequence[asyncio.Future[None]], failure: Exception | None) -> None:
        for done in waiting:
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)
        if failure is None:
            self._grown.set()
