"""What a run inside this process has used: the difference of two readings of the process, where that is the run's.

CPU: `getrusage` of this process and of the children that it has waited for. While two runs that are not nested in one
another are open at the same time, in threads or tasks, nobody can say whose a second was; both then end without figures,
and with `usage_left_out` in their metadata.

Memory: the system keeps one highest mark per process. If it rose during the run, the peak is the run's and is reported.
If it did not, all that is known is that the run stayed below an older peak, and nothing is reported. The same with the
largest child. For exact figures of one run, give it a process of its own, or use `fabmon run`.
"""

import threading
from typing import Final, NamedTuple

from fabmon.sdk.usage import MAXRSS_UNIT_BYTES, MIB, Usage, own_mark

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHARED: Final = "other jobs ran in this process at the same time"


class Reading(NamedTuple):
    user_s: float
    system_s: float
    mark: int
    """The process's highest memory mark, in the unit of `ru_maxrss`."""
    children_mark: int


def read() -> Reading | None:
    """What this process and its children have used up to now; None on Windows."""
    if resource is None:
        return None
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return Reading(
        own.ru_utime + children.ru_utime,
        own.ru_stime + children.ru_stime,
        own_mark(),
        children.ru_maxrss,
    )


def between(begin: Reading | None, end: Reading | None) -> Usage:
    if begin is None or end is None:
        return Usage()
    risen = [end.mark] if end.mark > begin.mark else []
    risen += [end.children_mark] if end.children_mark > begin.children_mark else []
    return Usage(
        end.user_s - begin.user_s,
        end.system_s - begin.system_s,
        max(risen) * MAXRSS_UNIT_BYTES / MIB if risen else None,
    )


class Open:
    """The runs that are open in this process, and which of them were alone all the time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As if new: in a forked child the parent's runs are not open."""
        self._lock = threading.RLock()  # reentrant: a signal handler may end runs
        self._open: set[object] = set()
        self._alone: set[object] = set()

    def begin(self, run: object, above: frozenset[object]) -> None:
        """*run* begins, inside those *above*."""
        with self._lock:
            if self._open <= above:
                self._alone.add(run)
            else:
                self._alone &= above
            self._open.add(run)

    def end(self, run: object) -> bool:
        """Whether no other run has disturbed *run*."""
        with self._lock:
            self._open.discard(run)
            alone = run in self._alone
            self._alone.discard(run)
            return alone

    def now(self) -> list[object]:
        with self._lock:
            return list(self._open)
