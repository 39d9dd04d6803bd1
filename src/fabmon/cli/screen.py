"""How the command line shows what it found: as wide as its reader, times and durations as people say them."""

import os
import sys
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from fabmon.wire.codec import encode

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


def moment(text: str | None) -> str | None:
    """An API's time from what a person writes: without an offset it is this machine's, as the tables show it; a time of day
    is today's. What is no time stays as it is, for the API to refuse."""
    if text is None:
        return None
    try:
        is_time_of_day = ":" in text[:3]  # 7:30 or 07:30
        at = datetime.fromisoformat(
            f"{datetime.now():%Y-%m-%d}T{'0' * (text[1:2] == ':')}{text}" if is_time_of_day else text
        )
        return (at if at.tzinfo else at.astimezone()).isoformat()
    except (ValueError, OverflowError):
        return text


def shown(value: object) -> str:
    """Six digits of a figure are enough to look at; `--json` has all. What is no figure or text is JSON."""
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if isinstance(value, float) else encode(value).decode()


def said(event: dict[str, Any]) -> dict[str, Any]:
    """What an event says beside its kind, what it was before what it took: a narrow line ends with what matters least."""
    return {**(event.get("metadata") or {}), **(event.get("metrics") or {})}


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
