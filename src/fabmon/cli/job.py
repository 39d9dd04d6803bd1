"""`fabmon job ID|KEY`: one job with its events and subjobs."""

import json
import sys
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from fabmon.cli.ask import fetch
from fabmon.cli.screen import coloured, duration, local_time, said, screen, shown, taken
from fabmon.errors import StartError
from fabmon.wire.codec import decode_object

_LATER = ("job_id", "app_id", "status", "metadata", "metrics", "started_at", "ended_at")


def job(
    wanted: Annotated[
        str,
        typer.Argument(metavar="ID|KEY", help="The id of a job or subjob, or a job's key, such as a lot."),
    ],
    url: Annotated[str, typer.Option(help="Local or central API; else FABMON_URL says which.")] = "",
    site: Annotated[str | None, typer.Option(help="The site, when URL is a central API.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Job, events and subjobs as JSON.")] = False,
) -> None:
    """Show one job: what it is, what happened, its subjobs."""
    id = _id_of(wanted, url, site)
    path = f"/v1/jobs/{id}"
    try:
        found = decode_object(fetch(url, path, {"site": site})) or {}
    except StartError as error:
        if not str(error).startswith("404: no job"):
            raise
        path = f"/v1/subjobs/{id}"
        found = _subjob(url, path, site, error)
    events = (decode_object(fetch(url, path + "/events", {"site": site, "limit": 1000})) or {}).get("items", [])
    subjobs = []
    if "subjob_id" not in found:
        subjobs = (decode_object(fetch(url, path + "/subjobs", {"site": site, "limit": 1000})) or {}).get("items", [])
    if as_json:
        json.dump({"job": found, "events": events, "subjobs": subjobs}, sys.stdout)
        print()
        return
    console = screen()
    console.print(_facts(found))
    console.print(_events(events, found))
    if subjobs:
        console.print(_subjobs(subjobs))


def _subjob(url: str, path: str, site: str | None, no_job: StartError) -> dict[str, Any]:
    """An id that is no job's may be a subjob's."""
    try:
        return decode_object(fetch(url, path, {"site": site})) or {}
    except StartError:
        raise no_job from None


def _id_of(wanted: str, url: str, site: str | None) -> str:
    try:
        return str(UUID(wanted))
    except ValueError:
        pass  # a key, then
    newest = (decode_object(fetch(url, "/v1/jobs", {"site": site, "key": wanted, "limit": 1})) or {}).get("items")
    if not newest or newest[0]["job_key"] != wanted:
        raise StartError(f"{wanted!r} is no id, and no job has that key")
    return str(newest[0]["job_id"])


def _facts(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("job", Text(str(found["job_id"])))
    table.add_row("status", coloured(str(found["status"])))
    for name in ("started_at", "ended_at"):
        table.add_row(name, Text(_fact(name, found.get(name))))
    for name, value in found.items():
        if name not in _LATER and value is not None and value is not False:
            table.add_row(name, Text(_fact(name, value)))
    for group in ("metrics", "metadata"):
        for name, value in (found.get(group) or {}).items():
            table.add_row(f"{group}.{name}", Text(shown(value)))
    return table


def _fact(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_at"):
        return local_time(value)
    return duration(value) if name.endswith("_s") else shown(value)


def _events(events: list[dict[str, Any]], found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="events", title_justify="left")
    for name in ("at", "kind", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("said", overflow="fold")
    for event in events:
        text = " ".join(f"{name}={_once(value, found)}" for name, value in said(event).items())
        table.add_row(local_time(event["at"]), event["kind"], coloured(event["status"]), Text(text))
    return table


def _once(value: object, found: dict[str, Any]) -> str:
    """What has several lines, such as the end of stderr, stands above already."""
    text = shown(value)
    return "(above)" if "\n" in text and value in (found.get("metadata") or {}).values() else text


def _subjobs(subjobs: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="subjobs", title_justify="left")
    for name in ("started", "status", "key", "duration"):
        table.add_column(name, no_wrap=True)
    for each in reversed(subjobs):
        cells = local_time(each["started_at"]), coloured(each["status"]), Text(str(each["sub_key"] or ""))
        table.add_row(*cells, Text(taken(each)))
    return table
