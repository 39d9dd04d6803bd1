"""`fabmon run --app NAME -- COMMAND ...`: any program as a job.

How the program is started and how signals reach it: sdk/child.py. How the report is sent or kept: sdk/emitter.py.
What the program may say on its way: sdk/lines.py. The end of its stderr: sdk/tail.py.

Exit code. The program's own; 128+N when signal N killed it, as a shell says it; 127 when it was not found, 126 when it
cannot be executed, 2 for a mistake in the options, before anything is started.

Job. canceled: SIGINT, SIGTERM or SIGHUP killed it, or it got one of them through us and exited with 128+N. succeeded:
exit 0. failed: any other end. On Windows an end after Ctrl-C with another code than 0 is canceled.

This module is imported on every run of every job, so it imports no typer and nothing of the roles.
"""

import argparse
import os
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn
from uuid import UUID, uuid4

from fabmon.clock import monotonic, now
from fabmon.errors import BadEvent, SettingsError
from fabmon.sdk.address import DEFAULT_SITE_ID, DEFAULT_URL, read_address
from fabmon.sdk.child import End, run_child
from fabmon.sdk.emitter import Emitter
from fabmon.sdk.events import check, event_of
from fabmon.sdk.lines import Lines, Said
from fabmon.sdk.tail import Tail
from fabmon.wire.event import Entity, Kind, Status
from fabmon.wire.ids import app_of

STOPPING: Final = ("SIGINT", "SIGTERM", "SIGHUP")
OWN_METADATA: Final = frozenset(
    {"command", "arguments", "argument_count", "host", "pid", "exit_code", "signal", "error", "stderr_tail"}
)
ARGUMENTS_LIMIT_CHARACTERS: Final = 8_000


def run(arguments: list[str]) -> int:
    """Run the command that *arguments* (those behind `fabmon run`) name; the exit code for this process."""
    try:
        options, command = _read_arguments(arguments)
        address = read_address(options.url)
        app = app_of(options.app, options.app_version)
        entity = _entity(options)
        metadata = _metadata(options, command)
        event = partial(event_of, options.site, app, entity)
        check(event("started", now(), status="running", metadata=metadata | {"pid": 2**31}))
    except (SettingsError, BadEvent) as error:
        print(f"fabmon run: {error}", file=sys.stderr)
        return 2
    emitter = Emitter(address, str(entity.id))
    environment = {
        **os.environ,
        "FABMON_JOB_ID": str(entity.parent_id or entity.id),
        "FABMON_APP": options.app,
        "FABMON_URL": options.url,
        "FABMON_SITE_ID": options.site,
    }

    def say(said: Said) -> None:
        emitter.send(event(said.kind, now(), metrics=said.metrics, metadata=said.metadata))

    lines = None if sys.platform == "win32" else Lines(say)
    if lines is not None:
        environment["FABMON_EVENTS_FD"] = str(lines.writer)
    tail = Tail()
    started_at, begun = now(), monotonic()

    def when_started(pid: int | None) -> None:
        own = {} if pid is None else {"pid": pid}
        emitter.send(event("started", started_at, status="running", metadata=metadata | own))
        if lines is not None:
            lines.start()

    end, usage = run_child(command, environment, when_started)
    duration_s = monotonic() - begun
    kind, status = outcome(end)
    exit_code = end.code if end.code >= 0 else 128 - end.code
    ending = _ending(end, exit_code)
    if status == "failed" and not options.no_stderr and (shown := tail.read()):
        ending["stderr_tail"] = _shown(shown)
    if lines is not None:
        lines.stop()
        if lines.not_understood:
            ending["event_lines_not_understood"] = lines.not_understood
    if end.error is not None:
        print(f"fabmon run: {end.error}", file=sys.stderr)
    trouble = emitter.close(
        event(
            kind,
            now(),
            status=status,
            metrics={"duration_s": duration_s, "exit_code": exit_code, **usage._asdict()},
            metadata=ending,
        )
    )
    if trouble is not None:
        print(f"fabmon run: this job's report: {trouble}", file=sys.stderr)
    return exit_code


def outcome(end: End) -> tuple[Kind, Status]:
    """What this end means for the job."""
    stopping = {getattr(signal, name) for name in STOPPING if hasattr(signal, name)}
    if end.error is not None:
        return "error", "failed"
    asked = stopping & end.got
    if -end.code in stopping or end.code - 128 in asked or (sys.platform == "win32" and asked and end.code != 0):
        return "canceled", "canceled"
    return "finished", "succeeded" if end.code == 0 else "failed"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _read_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
        prog="fabmon run",
        usage="fabmon run --app NAME [options] -- COMMAND [ARGUMENT ...]",
        description="Run any program as a job: its start, end, duration, CPU, peak memory and exit code are reported.",
        epilog="The program's output, exit code and signals pass through. A sidecar that is away changes nothing: the "
        "report is kept on disk and sent by a later run. "
        "The program finds FABMON_JOB_ID, FABMON_APP and FABMON_URL in its environment, and may write lines such as "
        "`progress 0.5` and `metric wafers=25` to the file descriptor FABMON_EVENTS_FD.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--app", required=True, metavar="NAME", help="the application that the job belongs to")
    add("--app-version", metavar="V", help="its version")
    add("--key", metavar="K", help="the job's business key, such as a lot")
    add("--parent", metavar="ID", help='report a subjob of this job; inside a job: --parent "$FABMON_JOB_ID"')
    add("--meta", metavar="a=b", nargs="+", action="extend", default=[], help="metadata, as often as needed")
    add("--with-arguments", action="store_true", help="report the arguments too; by default not: they may be secret")
    add(
        "--no-stderr",
        action="store_true",
        help="do not report the end of stderr when a failed program wrote it to a file",
    )
    add("--url", metavar="URL", help=f"the sidecar; default FABMON_URL or {DEFAULT_URL}")
    add(
        "--site",
        metavar="ID",
        help=f"this site; default FABMON_SITE_ID or {DEFAULT_SITE_ID}; must be the sidecar's",
    )
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    command = arguments[split + 1 :]
    if not command:
        raise SettingsError("the command is missing; it stands behind `--`: fabmon run --app NAME -- COMMAND ...")
    options.url = options.url or os.environ.get("FABMON_URL") or DEFAULT_URL
    options.site = options.site or os.environ.get("FABMON_SITE_ID") or DEFAULT_SITE_ID
    return options, command


def _entity(options: argparse.Namespace) -> Entity:
    if options.parent is None:
        return Entity("job", uuid4(), business_key=options.key)
    try:
        parent = UUID(options.parent)
    except ValueError:
        raise SettingsError(f"--parent: {options.parent[:100]!r} is no UUID") from None
    return Entity("subjob", uuid4(), parent_id=parent, sub_key=options.key)


def _metadata(options: argparse.Namespace, command: Sequence[str]) -> dict[str, object]:
    """What the job's start says about it, but for the pid, which does not exist yet."""
    metadata: dict[str, object] = {
        "command": _shown(command[0]),
        "argument_count": len(command) - 1,
        "host": socket.gethostname(),
    }
    if options.with_arguments:
        metadata["arguments"] = _shown(shlex.join(command[1:]))
    for pair in options.meta:
        name, found, value = pair.partition("=")
        if not name or not found:
            raise SettingsError(f"--meta: {pair[:100]!r} is not of the form NAME=VALUE")
        if name in OWN_METADATA:
            raise SettingsError(f"--meta: {name} is set by fabmon run itself")
        metadata[name] = value
    return metadata


def _shown(text: str) -> str:
    """Bytes that are no UTF-8 become question marks; what is too long is cut."""
    shown = text.encode(errors="replace").decode()
    return shown if len(shown) <= ARGUMENTS_LIMIT_CHARACTERS else shown[:ARGUMENTS_LIMIT_CHARACTERS] + " ..."


def _ending(end: End, exit_code: int) -> dict[str, object]:
    metadata: dict[str, object] = {"exit_code": exit_code}
    if end.code < 0:
        metadata["signal"] = _signal_name(-end.code)
    if end.error is not None:
        metadata["error"] = _shown(end.error)
    return metadata


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"
