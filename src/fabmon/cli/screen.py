"""How the command line shows what it found: as wide as its reader, times and durations as people say them."""

import os
import sys
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

_COLOURS: Final = {"running": "cyan", "succeeded": "green", "failed": "bold red", "canceled": "yellow"}
# Wider than any event: what goes into a pipe or a file is read by a program, which must find all of it.
_UNCUT_COLUMNS: Final = 100_000


def screen() -> Console:
    """As wide as the terminal, or as COLUMNS says; where there is neither, nothing is cut."""
    uncut = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(highlight=False, width=_UNCUT_COLUMNS if uncut else None)


def coloured(status: str, shown: str | None = None) -> Text:
    return Text(shown or status, style=_COLOURS.get(status, ""))


def local_time(text: str) -> str:
    """Today's by the time, this year's by the day, older ones with their year."""
    at, today = datetime.fromisoformat(text).astimezone(), datetime.now().astimezone()
    if at.date() == today.date():
        return f"{at:%H:%M:%S}"
    return f"{at:%m-%d %H:%M}" if at.year == today.year else f"{at:%Y-%m-%d %H:%M}"


def shown(value: object) -> str:
    """Six digits of a figure are enough to look at; `--json` has all."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def total(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def taken(item: dict[str, Any]) -> str:
    """How long a job took; of one that runs, how long it has been running by this machine's clock, with a +."""
    if item["duration_s"] is not None or item["status"] != "running" or item.get("lost"):
        return duration(item["duration_s"])
    so_far = (datetime.now().astimezone() - datetime.fromisoformat(item["started_at"])).total_seconds()
    return f"{duration(max(0.0, so_far))}+"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
