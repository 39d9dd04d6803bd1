"""`fabmon jobs`: the job list in the terminal."""

import shutil
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fabmon.cli.ask import ask, coloured, duration, fetch, local_time, total
from fabmon.errors import StartError
from fabmon.wire.codec import decode_object


def jobs(
    url: Annotated[str, typer.Option(help="Local or central API [env: FABMON_URL].")] = "",
    site: Annotated[str | None, typer.Option(help="The site, when URL is a central API.")] = None,
    status: Annotated[str | None, typer.Option(help="running, succeeded, failed, canceled; a comma list.")] = None,
    app: Annotated[str | None, typer.Option(help="Part of the application's name.")] = None,
    key: Annotated[str | None, typer.Option(help="The job's key, such as a lot.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Started at or after, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Started before, ISO 8601.")] = None,
    limit: Annotated[int, typer.Option(help="Most rows.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer as it is.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every column, as CSV.")] = False,
) -> None:
    """Show the newest jobs."""
    wanted = {"site": site, "status": status, "app_name": app, "key": key, "from": since, "to": until, "limit": limit}
    if as_csv:
        with ask(url, "/v1/jobs", wanted | {"format": "csv"}) as response:
            shutil.copyfileobj(response, sys.stdout.buffer)
        return
    body = fetch(url, "/v1/jobs", wanted)
    if as_json:
        sys.stdout.buffer.write(body + b"\n")
        return
    answer = decode_object(body)
    if answer is None or not isinstance(answer.get("items"), list):
        raise StartError("the answer is no list of jobs: is this the URL of a local or central API?")
    _show(answer["items"])


def _show(items: list[dict[str, Any]]) -> None:
    several_sites = len({item["site_id"] for item in items}) > 1
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", expand=False)
    table.add_column("started", no_wrap=True, min_width=8)
    table.add_column("status", no_wrap=True, min_width=11)
    # These two give way when the terminal is narrow.
    table.add_column("application", overflow="ellipsis", no_wrap=True)
    table.add_column("key", overflow="ellipsis", no_wrap=True)
    for name in ("duration", "cpu", "memory"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    if several_sites:
        table.add_column("site", no_wrap=True)
    for item in items:
        cells = [
            Text(local_time(item["started_at"])),
            _status(item),
            Text(str(item["app_name"])),
            Text(str(item["job_key"] or "")),
            Text(duration(item["duration_s"])),
            Text(duration(total(item["cpu_user_s"], item["cpu_system_s"]))),
            Text("" if item["mem_max_mb"] is None else f"{item['mem_max_mb']:.0f} MB"),
        ]
        table.add_row(*cells, *([Text(str(item["site_id"]))] if several_sites else []))
    Console().print(table if items else "no jobs match")


def _status(item: dict[str, Any]) -> Text:
    status, progress = str(item["status"]), item.get("progress")
    shown = f"{status} {progress:.0%}" if status == "running" and isinstance(progress, float) else status
    return coloured(status, shown)
