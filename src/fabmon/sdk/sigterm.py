"""SIGTERM while a job is open: reported as a cancellation, and then it does what it would have done.

A handler is set only in the main thread and only where there is none, so a program, a server or an event loop that handles
the signal keeps it. The process still dies of SIGTERM, later by the time of a last flush (at most one second).
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Final

from fabmon.sdk.ending import Ending

ENDING: Final = Ending("canceled", "canceled", {"canceled_by": "SIGTERM", "signal": "SIGTERM"})

_report: Callable[[Ending], None] | None = None


def watch(report: Callable[[Ending], None]) -> None:
    """Call *report* when SIGTERM comes, if nothing else would handle it."""
    global _report
    if os.name == "nt" or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        _report = report
        signal.signal(signal.SIGTERM, _on_sigterm)


def unwatch() -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_sigterm(number: int, frame: object) -> None:
    try:
        if _report is not None:
            _report(ENDING)
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
