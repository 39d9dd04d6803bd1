"""`fabmon run --app NAME -- COMMAND ...`: any program as a job.

How the program is started and how signals reach it: sdk/child.py. How the report is sent or kept: sdk/report.py.
What the program may say on its way: sdk/lines.py. The end of its stderr: sdk/tail.py.

Exit code. The program's own; 128+N when signal N killed it, as a shell says it; 127 when it was not found, 126 when it
cannot be executed, 2 for a mistake in the options, before anything is started.

Job. canceled: SIGINT, SIGTERM or SIGHUP killed it, or it got one of them through us and exited with 128+N. succeeded:
exit 0. failed: any other end. On Windows an end after Ctrl-C with another code than 0 is canceled.

This module is imported at every start of every job, before the program starts. So it and what it imports do without
typing, re, uuid, datetime, pathlib, contextlib, argparse and msgspec, each of which takes as long as all of this.
"""

from __future__ import annotations

import os
import sys
import time

from fabmon.cli.run_options import Options, read_options
from fabmon.errors import BadEvent, SettingsError
from fabmon.sdk.address import read_address
from fabmon.sdk.child import End, Plan, run_child
from fabmon.sdk.pipe import Pipe
from fabmon.sdk.report import Report
from fabmon.sdk.signals import signals
from fabmon.sdk.tail import Tail, tail_of_stderr
from fabmon.wire import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

STOPPING: Final = ("SIGINT", "SIGTERM", "SIGHUP")
OWN_METADATA: Final = frozenset(
    {"command", "arguments", "argument_count", "host", "pid", "exit_code", "signal", "error", "stderr_tail"}
)
ARGUMENTS_LIMIT_CHARACTERS: Final = 8_000


def run(arguments: list[str]) -> int:
    """Run the command that *arguments* (those behind `fabmon run`) name; the exit code for this process."""
    _reserve_standard_streams()
    try:
        options = read_options(arguments)
        address = read_address(options.url)
        entity = _entity(options)
        event = _events(options, entity)
        metadata = _metadata(options)
        _check(event("started", plain.at(), "running", {}, {**metadata, "pid": 2**31}))
    except (SettingsError, BadEvent) as error:
        return _say(str(error), 2)
    pipe = None if sys.platform == "win32" else Pipe()
    report = Report(address, options.url, entity["id"], event, pipe)
    tail = Tail() if options.no_stderr else tail_of_stderr()
    started_at, begun = plain.at(), time.monotonic()

    def when_started(pid: int | None) -> None:
        own = {} if pid is None else {"pid": pid}
        report.started(event("started", started_at, "running", {}, {**metadata, **own}))
        if options.wait:
            report.send_now()

    end = run_child(
        Plan(
            options.command,
            _environment(options, entity, pipe),
            when_started,
            (lambda: None) if options.wait else report.send_now,
            file_actions=tail.file_actions,
            without=tail.pid,
        )
    )
    duration_s = time.monotonic() - begun
    exit_code = end.code if end.code >= 0 else 128 - end.code
    try:
        kind, status = outcome(end)
        ending = _ending(end, exit_code)
        last_words = tail.read()
        if status == "failed" and last_words:
            ending["stderr_tail"] = last_words
        if not_understood := report.last_words():
            ending["event_lines_not_understood"] = not_understood
        metrics = {"duration_s": duration_s, "exit_code": exit_code, **end.usage.metrics()}
        trouble = report.ended(event(kind, plain.at(), status, metrics, ending))
    except Exception as error:  # noqa: BLE001  (a defect of ours must not change what the program's end was)
        trouble = f"this job's report failed: {type(error).__name__}: {error}"
    for words in (end.error, trouble):  # last: who reads our stderr may be slow
        if words is not None:
            _say(words)
    return exit_code


def outcome(end: End) -> tuple[str, str]:
    """What this end means for the job: kind and status of its last event."""
    stopping = {int(getattr(signals, name)) for name in STOPPING if hasattr(signals, name)}
    if end.error is not None:
        return "error", "failed"
    asked = stopping & end.got
    if -end.code in stopping or end.code - 128 in asked or (sys.platform == "win32" and asked and end.code != 0):
        return "canceled", "canceled"
    return "finished", "succeeded" if end.code == 0 else "failed"


def _say(text: str, code: int = 0) -> int:
    try:
        sys.stderr.write(f"fabmon run: {text}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # closed, full or read by nobody: no reason for another exit code
        pass
    return code


def _reserve_standard_streams() -> None:
    """What we open must not become the program's stdin, stdout or stderr. One that is closed stays so for the program."""
    if sys.platform == "win32":
        return
    try:
        while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed again by exec
            pass
        os.close(free)
    except OSError:  # a root without /dev: then without
        pass


def _entity(options: Options) -> dict[str, Any]:
    if options.parent is None:
        return {"type": "job", "id": plain.new_id(), "parent_id": None, "business_key": options.key, "sub_key": None}
    from uuid import UUID

    try:
        parent = str(UUID(options.parent))
    except ValueError:
        raise SettingsError(f"--parent: {options.parent[:100]!r} is no UUID") from None
    return {"type": "subjob", "id": plain.new_id(), "parent_id": parent, "business_key": None, "sub_key": options.key}


def _events(options: Options, entity: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    try:
        app = {"app_id": plain.id_of_name(options.app), "name": options.app, "version": options.app_version}
    except UnicodeEncodeError:
        raise SettingsError("a value is no valid UTF-8") from None

    def event(*what: Any) -> dict[str, Any]:
        return plain.event_of(options.site, app, entity, *what)

    return event


def _check(started: dict[str, Any]) -> None:
    """Raises BadEvent when a sidecar would refuse *started*, and so every event of this run."""
    try:
        line = plain.encode(started)
    except UnicodeEncodeError:
        raise SettingsError("a value is no valid UTF-8") from None
    site, name = started["site_id"], started["app"]["name"]
    ordinary = line.isascii() and len(line) <= 800 and b"\\" not in line
    if ordinary and name and len(site) <= 64 and site.replace("-", "").replace("_", "").replace(".", "").isalnum():
        return  # short and plain: nothing in it can break a rule, and most are like this
    from fabmon.clock import now
    from fabmon.wire.event import read_event

    read_event(line, now=now())


def _metadata(options: Options) -> dict[str, Any]:
    """What the job's start says about it, but for the pid, which does not exist yet."""
    metadata: dict[str, Any] = {
        "command": _shown(options.command[0]),
        "argument_count": len(options.command) - 1,
        "host": _host(),
    }
    if options.with_arguments:
        import shlex

        metadata["arguments"] = _shown(shlex.join(options.command[1:]))
    for pair in options.meta:
        name, found, value = pair.partition("=")
        if not name or not found:
            raise SettingsError(f"--meta: {pair[:100]!r} is not of the form NAME=VALUE")
        if name in OWN_METADATA:
            raise SettingsError(f"--meta: {name} is set by fabmon run itself")
        metadata[name] = value
    return metadata


def _environment(options: Options, entity: dict[str, Any], pipe: Pipe | None) -> dict[str, str]:
    """The program's."""
    environment = {
        **os.environ,
        "FABMON_JOB_ID": str(entity["parent_id"] or entity["id"]),
        "FABMON_APP": options.app,
        "FABMON_URL": options.url,
        "FABMON_SITE_ID": options.site,
    }
    if pipe is not None:
        environment["FABMON_EVENTS_FD"] = str(pipe.writer)
    return environment


def _host() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket

    return socket.gethostname()


def _shown(text: str) -> str:
    """Bytes that are no UTF-8 become question marks; what is too long is cut."""
    shown = text.encode(errors="replace").decode()
    return shown if len(shown) <= ARGUMENTS_LIMIT_CHARACTERS else shown[:ARGUMENTS_LIMIT_CHARACTERS] + " ..."


def _ending(end: End, exit_code: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {"exit_code": exit_code}
    if end.code < 0:
        metadata["signal"] = _signal_name(-end.code)
    if end.error is not None:
        metadata["error"] = _shown(end.error)
    return metadata


def _signal_name(number: int) -> str:
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"
