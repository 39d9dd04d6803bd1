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

from __future__ import annotations

import os
import sys
import time

from fabmon.sdk.signals import signals
from fabmon.sdk.usage import Tree, Usage, become_subreaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

FORWARDED: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
# A program that is done before this costs its machine next to nothing of ours.
LONG_SECONDS: Final = 0.1


class Plan:
    """How a program is to be started and what is to be done meanwhile."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        when_started: Callable[[int | None], None],
        when_long: Callable[[], None],
        *,
        file_actions: tuple[Any, ...] = (),
        without: int = 0,
    ) -> None:
        """*when_started* is called with its pid, or None when it cannot be started; *when_long* after LONG_SECONDS.

        *file_actions* are posix_spawn's; *without* is a child of ours that is none of the program's.
        """
        self.command = command
        self.environment = environment
        self.when_started = when_started
        self.when_long = when_long
        self.file_actions = file_actions
        self.without = without


class End:
    """How a program ended, and what it and all that it started has used."""

    def __init__(self, code: int, got: frozenset[int], usage: Usage, error: str | None = None) -> None:
        """*code*: its exit code, or minus the signal that killed it. *got*: the signals that it got through us, or
        together with us. *error*: why it was not started, in a line."""
        self.code = code
        self.got = got
        self.usage = usage
        self.error = error


def run_child(plan: Plan) -> End:
    """Run the program to its end."""
    return _run_on_windows(plan) if sys.platform == "win32" else _run(plan)


def _run(plan: Plan) -> End:
    become_subreaper()
    tree = Tree(without=plan.without)
    held, mask = _hold_signals()
    try:
        try:
            pid = os.posix_spawnp(
                plan.command[0],
                plan.command,
                plan.environment,
                file_actions=plan.file_actions,
                setsigmask=mask,
                setsigdef=[signals.SIGPIPE, signals.SIGXFSZ],  # these two Python ignores
            )
        except OSError as error:
            plan.when_started(None)
            return _not_started(plan.command[0], error)
        signals.signal(signals.SIGALRM, signals.SIG_DFL)  # our alarm clock; ignored, it would never ring
        tree.begin(pid)
        tree.look()
        plan.when_started(pid)
        status, got = _wait(plan, tree, pid, held)
        return End(os.waitstatus_to_exitcode(status), frozenset(got), tree.usage())
    finally:
        signals.setitimer(signals.ITIMER_REAL, 0)
        while signals.sigpending() & held:
            signals.sigwait(held)  # came too late for the program; must not kill us before the report is out
        signals.pthread_sigmask(signals.SIG_SETMASK, mask)


def _wait(plan: Plan, tree: Tree, pid: int, held: set[int]) -> tuple[int, set[int]]:
    """The wait status of the program *pid*, and the signals that it got."""
    got: set[int] = set()
    long_at = time.monotonic() + LONG_SECONDS
    is_long = False
    while (status := tree.reap()) is None:
        pause = tree.look()
        if not is_long:
            until_long = long_at - time.monotonic()
            if until_long <= 0:
                is_long = True
                plan.when_long()
                continue
            pause = min(pause, until_long)
        number, has_it = _next_signal(held, pause, pid)
        if number in (signals.SIGCHLD, signals.SIGALRM):
            continue
        got.add(number)
        if not has_it:
            _send(pid, number)
    return status, got


def _run_on_windows(plan: Plan) -> End:
    import subprocess

    try:
        program = subprocess.Popen(plan.command, env=plan.environment)
    except OSError as error:
        plan.when_started(None)
        return _not_started(plan.command[0], error)
    plan.when_started(program.pid)
    plan.when_long()
    got: set[int] = set()
    while True:
        try:
            code = program.wait()
        except KeyboardInterrupt:
            got.add(signals.SIGINT)
            continue
        return End(code, frozenset(got), Usage())


def _not_started(name: str, error: OSError) -> End:
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return End(code, frozenset(), Usage(), f"{name}: {error.strerror or error}")


def _hold_signals() -> tuple[set[int], set[int]]:
    """The signals that wait for `_next_signal` instead of acting; and the mask before, which the program gets."""
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)  # ignored, as some daemons have it, it would lose every exit code
    wanted = {getattr(signals, name) for name in FORWARDED}
    held = {signals.SIGCHLD, signals.SIGALRM} | {one for one in wanted if signals.getsignal(one) is not signals.SIG_IGN}
    return held, {int(one) for one in signals.pthread_sigmask(signals.SIG_BLOCK, held)}


def _next_signal(held: set[int], within_seconds: float, pid: int) -> tuple[int, bool]:
    """The next signal, SIGALRM when none came in time; and whether the program *pid* has got it too.

    An alarm and not `sigtimedwait`: when a stop and SIGCONT interrupt that, and its time is over, Python makes up a signal.
    """
    signals.setitimer(signals.ITIMER_REAL, max(within_seconds, 0.0001))
    if not hasattr(signals, "sigwaitinfo"):  # macOS
        number = int(signals.sigwait(held))
        return number, number in (signals.SIGINT, signals.SIGQUIT) and _in_our_group(pid) and _in_foreground()
    info = signals.sigwaitinfo(held)
    # A hang-up goes to the leader of the session alone, if that is what we are.
    to_a_group = info.si_code > 0 and not (info.si_signo == signals.SIGHUP and os.getsid(0) == os.getpid())
    return info.si_signo, to_a_group and _in_our_group(pid)


def _in_our_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except OSError:
        return False


def _in_foreground() -> bool:
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # it is gone, or has become another user's
