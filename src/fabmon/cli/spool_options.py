"""What the commands of `fabmon spool` share: their options, the directory, how an event is shown in a line."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fabmon.settings import LocalSettings, SidecarSettings, load
from fabmon.wire.codec import decode_object, encode

Dir = Annotated[Path | None, typer.Option("--dir", help="The spool's directory; default: as the settings say.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Url = Annotated[str, typer.Option(help="The Local API to send to; default: FABMON_LOCAL_URL.")]


def spool_directory(given: Path | None) -> Path:
    """The directory that was named, else the sidecar's, else the Local API's, as the settings say."""
    if given is not None:
        return given
    sidecar, local = load(SidecarSettings, os.environ).spool_path, load(LocalSettings, os.environ).spool_path
    return local if not sidecar.exists() and local.exists() else sidecar


def summary(event: object) -> str:
    """When, what, of which job: an event as one line; of *event* what can be understood."""
    if isinstance(event, bytes):
        event = decode_object(event)
    parts = event if isinstance(event, dict) else {}
    entity, happening, source = (
        part if isinstance(part := parts.get(name), dict) else {} for name in ("entity", "event", "app")
    )
    key = entity.get("sub_key") or entity.get("business_key") or ""
    facts = (happening.get("at"), happening.get("kind"), entity.get("type"), entity.get("id"), source.get("name"), key)
    return in_a_line(" ".join(map(str, facts)).rstrip())


def in_a_line(text: str) -> str:
    """What programs and sites sent, for a terminal: no control character gets there, which could forge a line."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def print_line(value: object) -> None:
    sys.stdout.buffer.write(encode(value) + b"\n")
