"""Run a program as if we were not there, and measure it.

It gets our standard streams, terminal, process group, environment and open files; no shell comes between. posix_spawn
starts it, and from then on the main thread waits for signals, reaps, and looks at the tree.

SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 to this process go on to the program. One that this process was
started to ignore (nohup) is left alone: the program ignores it too. A signal that the kernel sent, such as Ctrl-C, went
to the terminal's whole foreground group: the program, if it is in ours, has it already and does not get it twice. Who
sent a signal is known on Linux; elsewhere (macOS) SIGINT and SIGQUIT in the foreground are taken for the terminal's.

The end is the program's own: what it has left in the background is not waited for.

Windows has no such signals: a Ctrl-C reaches every program of the console by itself, and only the exit code is known.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from fabmon.sdk.usage import Tree, Usage, become_subreaper

FORWARDED: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126


class End(NamedTuple):
    """How a program ended."""

    code: int
    """Its exit code, or minus the signal that killed it."""
    got: frozenset[int] = frozenset()
    """The signals that it has got through us, or together with us."""
    error: str | None = None
    """Why it was not started, in a line."""


def run_child(
    command: list[str], environment: dict[str, str], when_started: Callable[[int | None], None]
) -> tuple[End, Usage]:
    """Run *command* to its end. *when_started* is called with its pid, or with None when it cannot be started."""
    run = _run_on_windows if sys.platform == "win32" else _run
    return run(command, environment, when_started)


def _run(
    command: list[str], environment: dict[str, str], when_started: Callable[[int | None], None]
) -> tuple[End, Usage]:
    become_subreaper()
    tree = Tree()
    with _held_signals() as (held, mask):
        try:
            pid = os.posix_spawnp(
                command[0],
                command,
                environment,
                setsigmask=mask,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # these two Python ignores
            )
        except OSError as error:
            when_started(None)
            return _not_started(command[0], error), Usage()
        tree.begin(pid)
        tree.look()
        when_started(pid)
        got: set[int] = set()
        while (status := tree.reap()) is None:
            number, has_it = _next_signal(held, tree.look(), pid)
            if number is None or number == signal.SIGCHLD:
                continue
            got.add(number)
            if not has_it:
                _send(pid, number)
        return End(os.waitstatus_to_exitcode(status), frozenset(got)), tree.usage()


def _run_on_windows(
    command: list[str], environment: dict[str, str], when_started: Callable[[int | None], None]
) -> tuple[End, Usage]:
    import subprocess

    try:
        program = subprocess.Popen(command, env=environment)
    except OSError as error:
        when_started(None)
        return _not_started(command[0], error), Usage()
    when_started(program.pid)
    got: set[int] = set()
    while True:
        try:
            code = program.wait()
        except KeyboardInterrupt:
            got.add(signal.SIGINT)
            continue
        return End(code, frozenset(got)), Usage()


def _not_started(name: str, error: OSError) -> End:
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return End(code, error=f"{name}: {error.strerror or error}")


@contextmanager
def _held_signals() -> Iterator[tuple[set[signal.Signals], set[int]]]:
    """The signals that wait for `_next_signal` instead of acting; and the mask before, which the program gets."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some daemons have it, it would lose every exit code
    wanted = {getattr(signal, name) for name in FORWARDED}
    held = {signal.SIGCHLD} | {one for one in wanted if signal.getsignal(one) is not signal.SIG_IGN}
    mask = {int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, held)}
    try:
        yield held, mask
    finally:
        while hasattr(signal, "sigtimedwait") and signal.sigtimedwait(held, 0) is not None:
            pass  # came too late for the program; must not kill us before the report is out
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _next_signal(held: set[signal.Signals], within_seconds: float, pid: int) -> tuple[int | None, bool]:
    """The next signal, None when none came in time; and whether the program *pid* has got it too."""
    if not hasattr(signal, "sigtimedwait"):  # macOS: no looks at the tree are due either
        number = int(signal.sigwait(held))
        return number, number in (signal.SIGINT, signal.SIGQUIT) and _in_our_group(pid) and _in_foreground()
    info = signal.sigtimedwait(held, within_seconds)
    if info is None:
        return None, False
    # A hang-up goes to the leader of the session alone, if that is what we are.
    to_a_group = info.si_code > 0 and not (info.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid())
    return info.si_signo, to_a_group and _in_our_group(pid)


def _in_our_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except OSError:
        return False


def _in_foreground() -> bool:
    try:
        with open("/dev/tty", "rb") as terminal:  # noqa: PTH123
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it is gone, or has become another user's
        os.kill(pid, number)
