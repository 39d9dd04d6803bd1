"""`fabmon jobs`: the job list in the terminal."""

import shutil
import sys
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from fabmon.cli.ask import ask, fetch
from fabmon.cli.screen import coloured, duration, local_time, moment, screen, taken, total
from fabmon.errors import SettingsError, StartError
from fabmon.wire.codec import decode_object

# A narrow terminal leaves out what is looked at last; a wide one has room for what `fabmon job` takes.
_FIGURES_FROM_COLUMNS: Final = 72
_IDS_FROM_COLUMNS: Final = 130


def jobs(
    url: Annotated[str, typer.Option(help="Local or central API; else FABMON_URL says which.")] = "",
    site: Annotated[str | None, typer.Option(help="The site or sites, or *, when URL is a central API.")] = None,
    status: Annotated[str | None, typer.Option(help="running, succeeded, failed, canceled; a comma list.")] = None,
    app: Annotated[str | None, typer.Option(help="Part of the application's name.")] = None,
    app_id: Annotated[str | None, typer.Option(help="The application's id.")] = None,
    key: Annotated[str | None, typer.Option(help="The job's key, such as a lot.")] = None,
    key_prefix: Annotated[str | None, typer.Option(help="How the key begins.")] = None,
    meta: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the metadata; may be repeated.")] = None,
    site_id: Annotated[str | None, typer.Option(help="The site that the jobs say they ran at.")] = None,
    stale: Annotated[bool | None, typer.Option(help="Running, and silent for long.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", help="Started at or after: ISO 8601, or 07:30 for today; local time, unless with an offset."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Started before, alike.")] = None,
    time_field: Annotated[
        str | None, typer.Option(help="What --from and --to mean: started_at, ended_at, inserted_at, active.")
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="A column; - before it for descending. No value counts as greatest."),
    ] = None,
    subjobs: Annotated[bool, typer.Option("--subjobs", help="Subjobs instead of jobs.")] = False,
    job: Annotated[str | None, typer.Option(help="The subjobs of this job.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most rows: 30 unless told, and of CSV all.")] = None,
    cursor: Annotated[str | None, typer.Option(help="The next_cursor that --json showed.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Also how many there are in all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer as it is.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every column, as CSV.")] = False,
) -> None:
    """Show the newest jobs, or those that are asked for; ! before a value excludes it."""
    wanted: dict[str, Any] = {
        "site": site,
        "status": status,
        "app_name": app,
        "app_id": app_id,
        "key": key,
        "key_prefix": key_prefix,
        "site_id": site_id,
        "stale": _flag(stale),
        "from": moment(since),
        "to": moment(until),
        "time_field": time_field,
        "order": order,
        "job_id": job,
        "cursor": cursor,
        "count": _flag(count or None),
        **_metadata(meta or []),
    }
    if as_csv and as_json:
        raise SettingsError("--csv and --json: one of the two")
    path = "/v1/subjobs" if subjobs or job else "/v1/jobs"
    if as_csv:
        with ask(url, path, wanted | {"limit": limit, "format": "csv"}) as response:
            shutil.copyfileobj(response, sys.stdout.buffer)
        return
    body = fetch(url, path, wanted | {"limit": 30 if limit is None else limit})
    if as_json:
        sys.stdout.buffer.write(body + b"\n")
        return
    answer = decode_object(body)
    if answer is None or not isinstance(answer.get("items"), list):
        raise StartError("the answer is no list of jobs: is this the URL of a local or central API?")
    _show(answer["items"], "subjobs" if path == "/v1/subjobs" else "jobs")
    _say_what_is_missing(answer)


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _metadata(meta: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in meta:
        name, equals, value = pair.partition("=")
        if not equals or f"metadata.{name}" in found:
            raise StartError(f"--meta: {pair!r} is not NAME=VALUE, or is given twice")
        found[f"metadata.{name}"] = value
    return found


def _say_what_is_missing(answer: dict[str, Any]) -> None:
    if "total" in answer:
        print(f"{answer['count']} of {'' if answer['total_exact'] else 'more than '}{answer['total']}")
    for name, site in (answer.get("sites") or {}).items():
        if site["status"] != "ok":
            print(f"fabmon: site {name} is missing: {site.get('error') or site['status']}", file=sys.stderr)


def _show(items: list[dict[str, Any]], what: str) -> None:
    console = screen()
    figures = ("duration", "cpu", "memory")[: 3 if console.width >= _FIGURES_FROM_COLUMNS else 1]
    several_sites = len({item["site_id"] for item in items}) > 1
    with_ids = console.width >= _IDS_FROM_COLUMNS
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", expand=False)
    table.add_column("started", no_wrap=True, min_width=8)
    table.add_column("status", no_wrap=True, min_width=11)
    # These two give way when the terminal is narrow: only a column that may wrap does, and its text does not.
    table.add_column("application")
    table.add_column("key")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    if several_sites:
        table.add_column("site", no_wrap=True)
    if with_ids:
        table.add_column("job", no_wrap=True, style="dim")
    for item in items:
        of_item = [
            taken(item),
            duration(total(item["cpu_user_s"], item["cpu_system_s"])),
            "" if item["mem_max_mb"] is None else f"{item['mem_max_mb']:.0f} MB",
        ]
        cells = [
            Text(local_time(item["started_at"])),
            _status(item),
            Text(str(item["app_name"]), no_wrap=True, overflow="ellipsis"),
            Text(_key(item), no_wrap=True, overflow="ellipsis"),
            *map(Text, of_item[: len(figures)]),
            *([Text(str(item["site_id"]))] if several_sites else []),
            *([Text(str(item["job_id"]))] if with_ids else []),
        ]
        table.add_row(*cells)
    console.print(table if items else f"no {what} match")


def _key(item: dict[str, Any]) -> str:
    """Of a subjob both, its own first, as the end may be cut: a wafer's number alone is every lot's."""
    return " ".join(str(part) for part in (item.get("sub_key"), item["job_key"]) if part)


def _status(item: dict[str, Any]) -> Text:
    status, progress = str(item["status"]), item.get("progress")
    if item.get("lost"):
        return coloured("failed", "lost")  # it runs as far as its events say, and its process is known to be gone
    shown = (
        f"{status} {progress:.0%}" if status == "running" and isinstance(progress, float) and progress <= 1 else status
    )
    return coloured(status, shown)
