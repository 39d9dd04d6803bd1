"""CPU seconds and peak memory of a program and of everything that it starts.

CPU: on Linux this process becomes a child subreaper, so that a grandchild whose parent has gone comes to us, not to
init. Every process of the tree is then reaped by its parent or by us, and the sum of what `wait4` says about ours is
the CPU of the whole tree. What still runs when the program ends (a daemon) is read from /proc and counted up to then.
Not counted: a child whose parent ignores SIGCHLD, because the kernel drops its figures.

Memory: the largest of many looks at the tree, and the highest mark of any one process (`ru_maxrss`) as a floor. For one
process a look is its resident memory, RSS. For several it is the sum of their proportional shares, PSS: workers that
were forked from one parent share its pages, and a sum of RSS would count these once per worker. PSS costs the kernel a
walk through the page tables, so it is read only when the sum of RSS could set a new peak. The unit: MiB (2**20 bytes).

`ru_maxrss` has a catch: before its exec a child shares our memory, and that counts. A mark up to our own size (20 MiB)
is therefore only an upper bound of what the program had: used when it was too short for three looks, else dropped.

Fallbacks: without /proc (macOS) there are no looks: the peak is that of the largest single process, and processes that
were reparented are not counted. Without `wait4` (Windows) there are no figures at all, only the caller's duration.
"""

from __future__ import annotations

import os
import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.005
LONGEST_PAUSE_SECONDS: Final = 0.15
# A look that took 1 ms is followed by a pause of at least 50 ms: at most 2 % of one CPU, however large the tree is.
PAUSE_PER_LOOK: Final = 50
ENOUGH_LOOKS: Final = 3
OUR_SIZE_BYTES: Final = 20 * 2**20  # of the wrapper itself, before its child's exec
MIB: Final = 2**20

_PR_SET_CHILD_SUBREAPER: Final = 36
MAXRSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024


class Usage:
    """What a tree has used; None where the system cannot say."""

    __slots__ = ("cpu_system_s", "cpu_user_s", "mem_max_mb")

    def __init__(
        self, cpu_user_s: float | None = None, cpu_system_s: float | None = None, mem_max_mb: float | None = None
    ) -> None:
        self.cpu_user_s = cpu_user_s
        self.cpu_system_s = cpu_system_s
        self.mem_max_mb = mem_max_mb

    def metrics(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in ("cpu_user_s", "cpu_system_s", "mem_max_mb")}


class Stat:
    """One process in /proc/PID/stat; times include those of the children that it has reaped."""

    __slots__ = ("parent", "rss_pages", "system_ticks", "user_ticks")

    def __init__(self, parent: int, user_ticks: int, system_ticks: int, rss_pages: int) -> None:
        self.parent = parent
        self.user_ticks = user_ticks
        self.system_ticks = system_ticks
        self.rss_pages = rss_pages


class Tree:
    """The processes below this one, which has called `become_subreaper`. One at a time: it reaps every child."""

    def __init__(self, proc: str = "/proc", without: int = 0) -> None:
        """*without* is a child of ours that is not the program's: it does not count."""
        self._proc = proc
        self._without = without
        self._me = os.getpid()
        self._has_children_files = _exists(f"{proc}/{self._me}/task/{self._me}/children")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._sees = _exists(f"{proc}/self/stat")
        self._main = 0
        self._our_mark_bytes = 0
        self._user_s = self._system_s = 0.0
        self._looks = self._seen_bytes = self._mark_bytes = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._next_look = 0.0

    def begin(self, pid: int) -> None:
        """The program runs as *pid*, a child of this process."""
        self._main = pid
        self._our_mark_bytes = own_mark() * MAXRSS_UNIT_BYTES

    def look(self) -> float:
        """Measure the tree's memory if that is due; the answer is the seconds until it is due again."""
        now = time.monotonic()
        if now < self._next_look:
            return self._next_look - now
        if self._sees:
            self._looks += 1
            self._seen_bytes = max(self._seen_bytes, self._memory_bytes())
        took = time.monotonic() - now
        pause = max(self._pause, took * PAUSE_PER_LOOK)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        self._next_look = now + took + pause
        return pause

    def reap(self) -> int | None:
        """Take up every child that has ended; the wait status of the program once it is among them."""
        status = None
        while True:
            try:
                pid, ended, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == 0:
                return status
            if pid == self._without:
                continue
            self._user_s += used.ru_utime
            self._system_s += used.ru_stime
            self._mark_bytes = max(self._mark_bytes, used.ru_maxrss * MAXRSS_UNIT_BYTES)
            if pid == self._main:
                status = ended

    def usage(self) -> Usage:
        """What was used up to now, by the ended and by those that still run."""
        tick = os.sysconf("SC_CLK_TCK")
        alive = [stat for stat in map(self._stat, self._pids()) if stat is not None] if self._sees else []
        if self._mark_bytes > self._our_mark_bytes:
            floor_bytes = self._mark_bytes
        else:
            # What we inherited from whoever started us is not the program's: our own size is the most that can be said.
            floor_bytes = min(self._mark_bytes, OUR_SIZE_BYTES) if self._looks < ENOUGH_LOOKS else 0
        peak_bytes = max(self._seen_bytes, floor_bytes)
        return Usage(
            cpu_user_s=self._user_s + sum(stat.user_ticks for stat in alive) / tick,
            cpu_system_s=self._system_s + sum(stat.system_ticks for stat in alive) / tick,
            mem_max_mb=peak_bytes / MIB,
        )

    def _memory_bytes(self) -> int:
        found = [(pid, stat) for pid in self._pids() if (stat := self._stat(pid)) is not None]
        rss_bytes = [stat.rss_pages * self._page_bytes for _, stat in found]
        if len(found) < 2 or sum(rss_bytes) <= self._seen_bytes:
            return sum(rss_bytes)
        return memory_of_several(rss_bytes, [self._share_bytes(pid) for pid, _ in found])

    def _pids(self) -> list[int]:
        if self._has_children_files:
            return [pid for pid in descendants(self._me, self._children) if pid != self._without]
        # A kernel without CONFIG_PROC_CHILDREN: every process of the machine is asked for its parent.
        children: dict[int, list[int]] = {}
        for name in os.listdir(self._proc):
            if name.isdigit() and (stat := self._stat(int(name))) is not None:
                children.setdefault(stat.parent, []).append(int(name))
        return [pid for pid in descendants(self._me, lambda pid: children.get(pid, ())) if pid != self._without]

    def _children(self, pid: int) -> list[int]:
        """Each thread lists the children that it started."""
        try:
            threads = os.listdir(f"{self._proc}/{pid}/task")
        except OSError:
            return []
        return [child for thread in threads for child in map(int, self._read(f"{pid}/task/{thread}/children").split())]

    def _stat(self, pid: int) -> Stat | None:
        return read_stat(self._read(f"{pid}/stat"))

    def _share_bytes(self, pid: int) -> int:
        """PSS; where that is secret, RSS; nothing of a process that has gone since we asked for its RSS."""
        pss = read_pss(self._read(f"{pid}/smaps_rollup"))
        if pss is None:
            stat = self._stat(pid)
            return stat.rss_pages * self._page_bytes if stat is not None else 0
        return pss

    def _read(self, name: str) -> str:
        """The file's text; empty when the process has gone or belongs to someone else."""
        try:
            with open(f"{self._proc}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""


def become_subreaper() -> bool:
    """Orphans below this process become its children. False where the system has no such thing (all but Linux)."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def own_mark() -> int:
    """The most memory that this program has had, in the unit of `ru_maxrss`; 0 where the system cannot say.

    On Linux `ru_maxrss` is older than the program: it holds what the process that started it had used before the exec.
    """
    if resource is None:
        return 0
    try:
        with open("/proc/self/status", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"VmHWM:"))
    except (OSError, ValueError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def read_stat(text: str) -> Stat | None:
    """The line of /proc/PID/stat; None when it is not one. The name in it may hold blanks and brackets."""
    fields = text.rpartition(")")[2].split()
    try:
        user, system, reaped_user, reaped_system = map(int, fields[11:15])
        return Stat(int(fields[1]), user + reaped_user, system + reaped_system, max(0, int(fields[21])))
    except (IndexError, ValueError):
        return None


def read_pss(text: str) -> int | None:
    """The bytes of the `Pss:` line of /proc/PID/smaps_rollup; None when there is none."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss" and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024
    return None


def memory_of_several(rss_bytes: Sequence[int], share_bytes: Sequence[int]) -> int:
    """The memory of a tree: the sum of the shares, and never less than the largest member."""
    return max(sum(share_bytes), max(rss_bytes))


def descendants(root: int, children_of: Callable[[int], Iterable[int]]) -> list[int]:
    """Every process below *root*, without it; each once, even if a pid is reused while we look."""
    found: dict[int, None] = {}
    waiting = [root]
    while waiting:
        for child in children_of(waiting.pop()):
            if child not in found and child != root:
                found[child] = None
                waiting.append(child)
    return list(found)
