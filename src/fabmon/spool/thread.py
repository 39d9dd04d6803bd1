"""The one thread that touches a spool's files: work in the order in which it was given, none interrupted half-way.

A ThreadPoolExecutor would do, but what it spends for each call on a future, its condition and a count of idle threads is a
twentieth of what a group of events costs.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Self, TypeVar

from fabmon.logs import Log

log = Log("fabmon.spool")

T = TypeVar("T")


class FileThread:
    """An async context: leaving it waits until all that was given is done; the event loop, and with it signals, go on."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="spool", daemon=True)
        self.is_closed = False

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """A disk that hangs may hold this up for ever: whoever cancels it leaves the thread to its work."""
        last = self.ask(lambda: None)
        self.is_closed = True
        self._work.put(None)
        await asyncio.wrap_future(last)
        self._thread.join()

    def post(self, work: Callable[[], object]) -> None:
        """Do *work*, which tells whom it concerns itself; raises RuntimeError when the context is left."""
        if self.is_closed:
            raise RuntimeError("the spool is closed")
        self._work.put(work)

    def ask(self, work: Callable[[], T]) -> Future[T]:
        """Do *work*, unless the future is cancelled before its turn; what it returns or raises is in the future."""
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
                answer.set_exception(error)

        self.post(run)
        return answer

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception as error:
                log.error("spool.bug", exc_info=error)
            del work  # and with it what it holds, however long the next takes to come
