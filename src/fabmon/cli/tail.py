"""`fabmon tail`: follow the stream; reconnects, and goes on where it was."""

import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from fabmon.cli.ask import ask
from fabmon.cli.screen import coloured, local_time, said, screen, shown
from fabmon.errors import StartError
from fabmon.wire.codec import decode_object

_PAUSE_SECONDS = 1.0


def tail(
    url: Annotated[str, typer.Option(help="Local or central API; else FABMON_URL says which.")] = "",
    site: Annotated[str | None, typer.Option(help="The site or sites, when URL is a central API.")] = None,
    kind: Annotated[str | None, typer.Option(help="started, progress, metric, finished, error, canceled.")] = None,
    status: Annotated[str | None, typer.Option(help="running, succeeded, failed, canceled; a comma list.")] = None,
    app: Annotated[str | None, typer.Option(help="Part of the application's name.")] = None,
    job: Annotated[str | None, typer.Option(help="Only this job and its subjobs.")] = None,
    entity_type: Annotated[str | None, typer.Option(help="job or subjob.")] = None,
    site_id: Annotated[str | None, typer.Option(help="The site that the events say they are of; a comma list.")] = None,
    resume: Annotated[str | None, typer.Option("--from-id", help="Begin behind this id of the stream.")] = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many events; 0 never ends.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Follow the events as they are stored; Ctrl-C ends it."""
    asked: dict[str, Any] = {
        "site": site,
        "kind": kind,
        "status": status,
        "app_name": app,
        "job_id": job,
        "entity_type": entity_type,
        "site_id": site_id,
    }
    follower = _Follower(screen(), as_json, count, resume)
    connected = False
    while not follower.done:
        try:
            with ask(url, "/v1/stream", asked | {"last_event_id": follower.last_id}) as response:
                connected = True
                follower.read(response)
            if not follower.done:
                time.sleep(_PAUSE_SECONDS)
        except StartError as error:
            # What never worked is a mistake; what worked before comes back.
            if not connected or str(error)[:1] == "4":
                raise
            print(f"fabmon: {error}; trying again", file=sys.stderr)
            time.sleep(_PAUSE_SECONDS)
        except KeyboardInterrupt:
            return


class _Follower:
    def __init__(self, console: Console, as_json: bool, count: int, resume: str | None) -> None:
        self.last_id = resume
        self.done = False
        self._console, self._as_json, self._left = console, as_json, count
        self._name = self._id = ""

    def read(self, response: Any) -> None:
        """Print what comes until the stream ends or enough has come."""
        for raw in response:
            line = raw.rstrip(b"\r\n")
            if line.startswith(b"id: "):
                self._id = line[4:].decode()
            elif line.startswith(b"event: "):
                self._name = line[7:].decode()
            elif line.startswith(b"data: "):
                self._print(line[6:])
                self.last_id, self._name = self._id or self.last_id, ""
                if self.done:
                    return

    def _print(self, data: bytes) -> None:
        event = decode_object(data) or {}
        if self._name:
            print(f"fabmon: {self._name} {event.get('site')} {event.get('error', '')}".rstrip(), file=sys.stderr)
            return
        if self._as_json:
            print(data.decode(), flush=True)
        else:
            line = Text(f"{local_time(event['at'])} ")
            line.append_text(coloured(event["status"], f"{event['kind']:9}"))
            line.append(f" {event['app_name']} {event['key'] or event['entity_id']} ")
            line.append(" ".join(f"{name}={shown(value)}" for name, value in said(event).items()), style="dim")
            self._console.print(line, overflow="ellipsis", no_wrap=True)
        self._left -= 1
        self.done = self._left == 0
