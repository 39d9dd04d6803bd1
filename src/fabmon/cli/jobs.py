"""`fabmon jobs`: the job list in the terminal."""

import os
import ssl
import sys
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fabmon.errors import SettingsError, StartError
from fabmon.peer.tls import client_context, handshake_failure
from fabmon.wire.codec import decode_object

DEFAULT_URL: Final = "http://localhost:18000"
_COLOURS: Final = {"running": "cyan", "succeeded": "green", "failed": "bold red", "canceled": "yellow"}
_TIMEOUT_SECONDS: Final = 30.0


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
) -> None:
    """Show the newest jobs."""
    wanted = {"site": site, "status": status, "app_name": app, "key": key, "from": since, "to": until, "limit": limit}
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    body = _fetch(f"{(url or os.environ.get('FABMON_URL') or DEFAULT_URL).rstrip('/')}/v1/jobs?{query}")
    if as_json:
        sys.stdout.buffer.write(body + b"\n")
        return
    answer = decode_object(body)
    if answer is None or not isinstance(answer.get("items"), list):
        raise StartError("the answer is no list of jobs: is this the URL of a local or central API?")
    _show(answer["items"])


def _fetch(address: str) -> bytes:
    if not address.startswith(("http://", "https://")):
        raise SettingsError(f"--url: {address.partition('/v1/')[0]!r} is no URL, such as {DEFAULT_URL}")
    headers = {"accept": "application/json"}
    if token := os.environ.get("FABMON_TOKEN"):
        headers["authorization"] = f"Bearer {token}"
    try:
        with urlopen(Request(address, headers=headers), timeout=_TIMEOUT_SECONDS, context=_tls()) as response:  # noqa: S310 - checked above
            content: bytes = response.read()
            return content
    except HTTPError as error:
        problem = decode_object(error.read()) or {}
        raise StartError(f"{error.code}: {problem.get('detail', error.reason)}") from None
    except (URLError, OSError) as error:
        tls = handshake_failure(error) if address.startswith("https") else ""
        reason = tls or getattr(error, "reason", None) or error
        raise StartError(f"{address.partition('/v1/')[0]} does not answer: {reason}") from None


def _tls() -> ssl.SSLContext:
    """As the roles have it: FABMON_CA, FABMON_CLIENT_CERT, FABMON_CLIENT_KEY."""
    names = ("FABMON_CA", "FABMON_CLIENT_CERT", "FABMON_CLIENT_KEY")
    return client_context(*(os.environ.get(name, "") for name in names))


def _show(items: list[dict[str, Any]]) -> None:
    several_sites = len({item["site_id"] for item in items}) > 1
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", expand=False)
    table.add_column("started", no_wrap=True, min_width=11)
    table.add_column("status", no_wrap=True, min_width=11)
    # These two give way when the terminal is narrow.
    table.add_column("application", overflow="ellipsis", no_wrap=True)
    table.add_column("key", overflow="ellipsis", no_wrap=True)
    for name in ("duration", "cpu", "memory"):
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    if several_sites:
        table.add_column("site", no_wrap=True)
    for item in items:
        cells = [
            Text(_local_time(item["started_at"])),
            _status(item),
            Text(str(item["app_name"])),
            Text(str(item["job_key"] or "")),
            Text(_duration(item["duration_s"])),
            Text(_duration(_sum(item["cpu_user_s"], item["cpu_system_s"]))),
            Text("" if item["mem_max_mb"] is None else f"{item['mem_max_mb']:.0f} MB"),
        ]
        table.add_row(*cells, *([Text(str(item["site_id"]))] if several_sites else []))
    Console().print(table if items else "no jobs match")


def _status(item: dict[str, Any]) -> Text:
    status, progress = str(item["status"]), item.get("progress")
    shown = f"{status} {progress:.0%}" if status == "running" and isinstance(progress, float) else status
    return Text(shown, style=_COLOURS.get(status, ""))


def _local_time(text: str) -> str:
    """Today's jobs by their time, older ones by their day."""
    at = datetime.fromisoformat(text).astimezone()
    return at.strftime("%H:%M:%S" if at.date() == datetime.now().astimezone().date() else "%m-%d %H:%M")


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
