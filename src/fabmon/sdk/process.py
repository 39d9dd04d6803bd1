"""The one emitter of this process: made on first use, made anew in a forked child, closed at exit.

A child that was forked has the parent's memory but not its thread; what waited in the parent is the parent's to send, so
the child begins with nothing. `multiprocessing` ends its children with `os._exit`, past `atexit`; they get a finalizer of
its own kind instead. Only `os._exit` called directly, and signals that kill, cost what was sent in the last moments.
"""

import atexit
import os
import sys
import threading
from typing import Final
from uuid import uuid4

from fabmon.errors import SettingsError
from fabmon.sdk.address import DEFAULT_URL, read_address
from fabmon.sdk.emitter import FLUSH_SECONDS, Emitter
from fabmon.sdk.events import Draft

_BEHIND_ALL_OTHERS: Final = -100


class Outlet:
    """Where the events of this process go."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As if new: in a forked child nothing of the parent's is ours."""
        self._lock = threading.RLock()
        self._emitter: Emitter | None = None
        self._broken = False

    def send(self, event: bytes | Draft) -> None:
        emitter = self._emitter or self._make()
        if emitter is not None:
            emitter.send(event)

    def flush(self, within_seconds: float) -> bool:
        return self._emitter is None or self._emitter.flush(within_seconds)

    def close(self, within_seconds: float = FLUSH_SECONDS) -> None:
        if self._emitter is not None and (trouble := self._emitter.close(None, within_seconds)):
            complain(trouble)

    def _make(self) -> Emitter | None:
        with self._lock:
            if self._emitter is not None or self._broken:
                return self._emitter
            try:
                address = read_address(os.environ.get("FABMON_URL") or DEFAULT_URL)
            except SettingsError as error:
                self._broken = True
                complain(f"FABMON_URL: {error}; nothing is reported")
                return None
            self._emitter = Emitter(address, uuid4().hex)
            _at_the_end_of_a_multiprocessing_child()
            return self._emitter


def complain(trouble: str) -> None:
    """Once, through `logging`, which a program has set up as it likes."""
    import logging

    logging.getLogger("fabmon.sdk").warning("fabmon: %s", trouble)


def _at_the_end_of_a_multiprocessing_child() -> None:
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, OUTLET.close, exitpriority=_BEHIND_ALL_OTHERS)


OUTLET: Final = Outlet()

atexit.register(OUTLET.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OUTLET.forget)
