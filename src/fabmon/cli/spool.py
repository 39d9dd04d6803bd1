"""`fabmon spool`: look into a spool, live or copied; send what it holds; deal with dead letters.

Everything only reads, except `replay`, `dead retry` and `dead drop`, which say so.
"""

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from fabmon.cli.spool_send import drain, send_copy, send_letters
from fabmon.errors import StartError
from fabmon.settings import LocalSettings, SidecarSettings, load
from fabmon.spool.dead import DEAD, take_out
from fabmon.spool.disk import Disk
from fabmon.spool.frame import Record
from fabmon.spool.look import check, contents, look, pending
from fabmon.spool.segment import Damage
from fabmon.wire.codec import decode_object, encode

app = typer.Typer(help="Look into a spool, live or copied; send what it holds; its dead letters.", no_args_is_help=True)
dead = typer.Typer(help="Events that the other side refused for good.", no_args_is_help=True)
app.add_typer(dead, name="dead")

Dir = Annotated[Path | None, typer.Option("--dir", help="The spool's directory [default: as the settings say].")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Url = Annotated[str, typer.Option(help="The Local API to send to [default: FABMON_LOCAL_URL].")]
Numbers = Annotated[list[int] | None, typer.Argument(help="Letters by their number in `dead ls`.")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]


@app.command()
def stat(directory: Dir = None, as_json: Json = False) -> None:
    """How many events came in, and what became of them."""
    view = look(_directory(directory))
    books = view.books
    facts: dict[str, Any] = {
        "directory": str(view.directory),
        "id": view.id,
        "accepted": view.accepted,
        "delivered": books.delivered,
        "pending": view.pending,
        "dead": books.dead,
        "set_aside": books.set_aside,
        "dropped": books.dropped,
        "dead_letters": view.dead_letters,
        "segments": len(view.segments),
        "bytes": view.bytes,
        "oldest_pending_age_s": view.oldest_segment_age_s,
        "set_aside_files": view.set_aside_files,
    }
    if as_json:
        _print_line(facts)
        return
    for name, value in facts.items():
        print(f"{name:21} {value}")


@app.command()
def ls(
    directory: Dir = None,
    limit: Annotated[int, typer.Option(min=1, help="Most events.")] = 100,
    as_json: Json = False,
) -> None:
    """The pending events, oldest first."""
    for number, record in enumerate(pending(look(_directory(directory)))):
        if number >= limit:
            print(f"... more than {limit}; see --limit", file=sys.stderr)
            return
        if as_json:
            sys.stdout.buffer.write(b'{"seq":%d,"event":%b}\n' % (record.seq, record.raw))
        else:
            print(f"{record.seq:>12} {_summary(record.raw)}")


@app.command()
def show(
    seq: Annotated[int, typer.Argument(help="The event's sequence, as `ls` shows it.")], directory: Dir = None
) -> None:
    """One event, as it was accepted; also one that has been delivered, while its segment is there."""
    for _, item in contents(look(_directory(directory))):
        if isinstance(item, Record) and item.seq == seq:
            sys.stdout.buffer.write(msgspec.json.format(item.raw, indent=2) + b"\n")
            return
    raise StartError(f"there is no event {seq}")


@app.command()
def verify(directory: Dir = None, as_json: Json = False) -> None:
    """Check every byte; exit code 1 when something is damaged or the books do not balance."""
    view = look(_directory(directory))

    def tell(found: Damage) -> None:
        (
            _print_line(found)
            if as_json
            else print(f"{found.what}: {found.file} at {found.offset}, {found.length} bytes")
        )

    checked = check(view, tell)
    facts = {
        "whole": checked.whole,
        "missing": checked.missing,
        "findings": checked.damaged,
        "books": view.books_found and view.books.balanced,
    }
    if as_json:
        _print_line(facts)
    else:
        print(f"{checked.whole} pending events whole, {checked.missing} missing, {checked.damaged} damaged places")
        if not facts["books"]:
            print("the books are missing or do not balance")
    if checked.damaged or checked.missing or not facts["books"]:
        raise typer.Exit(1)


@app.command()
def export(directory: Dir = None) -> None:
    """The pending events as they were accepted, one JSON object a line: for `fabmon`'s ingest, or for jq."""
    for record in pending(look(_directory(directory))):
        sys.stdout.buffer.write(record.raw + b"\n")


@app.command()
def replay(
    directory: Dir = None,
    url: Url = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Send, and leave the spool as it is; also beside a sidecar.")
    ] = False,
) -> None:
    """Send the pending events to a Local API, and acknowledge them; the spool must not be in use, unless --keep."""
    place = _directory(directory)
    view = look(place)
    asyncio.run(send_copy(view, url) if keep else drain(place, url))


@dead.command("ls")
def dead_ls(directory: Dir = None, as_json: Json = False) -> None:
    """Every dead letter, with the reason."""
    for number, line in _letters(_directory(directory)):
        letter = decode_object(line) or {"code": "unreadable"}
        if as_json:
            _print_line({"number": number, **letter})
        else:
            tries = f"after {letter['attempts']} tries" if "attempts" in letter else ""
            print(
                f"{number:>6} {letter.get('at', '')} {letter.get('code')}: {letter.get('detail', '')} {tries}".rstrip()
            )


@dead.command("show")
def dead_show(number: Annotated[int, typer.Argument(help="Its number in `dead ls`.")], directory: Dir = None) -> None:
    """One dead letter with its event."""
    for each, line in _letters(_directory(directory)):
        if each == number:
            sys.stdout.buffer.write(msgspec.json.format(line, indent=2) + b"\n")
            return
    raise StartError(f"there is no dead letter {number}")


@dead.command("retry")
def dead_retry(numbers: Numbers = None, every: All = False, directory: Dir = None, url: Url = "") -> None:
    """Send dead letters to a Local API once more, and take out those that it accepts."""
    place = _directory(directory)
    chosen = _chosen(place, numbers, every)
    taken: set[bytes] = set()
    try:
        asyncio.run(send_letters(list(chosen.values()), url, taken))
    finally:  # also of those before a failure
        _take_out(place, taken)
    print(f"{len(taken)} of {len(chosen)} accepted")
    if len(taken) < len(chosen):
        raise typer.Exit(1)


@dead.command("drop")
def dead_drop(numbers: Numbers = None, every: All = False, directory: Dir = None) -> None:
    """Take dead letters out for good."""
    place = _directory(directory)
    chosen = _chosen(place, numbers, every)
    print(f"{_take_out(place, set(chosen.values()))} dropped")


def _directory(given: Path | None, role: Literal["sidecar", "local"] = "sidecar") -> Path:
    """The directory that was named, else the sidecar's, else the Local API's, as the settings say."""
    if given is not None:
        return given
    found = load(SidecarSettings, os.environ).spool_path
    local = load(LocalSettings, os.environ).spool_path
    return local if role == "local" or (not found.exists() and local.exists()) else found


def _letters(directory: Path) -> Iterable[tuple[int, bytes]]:
    try:
        with (directory / DEAD).open("rb") as file:
            yield from enumerate((line for line in file if line != b"\n"), 1)
    except FileNotFoundError:
        look(directory)  # none at all is another answer than no spool


def _chosen(directory: Path, numbers: Sequence[int] | None, every: bool) -> dict[int, bytes]:
    letters = dict(_letters(directory))
    if every:
        return letters
    if not numbers:
        raise StartError("name letters by their number in `fabmon spool dead ls`, or say --all")
    unknown = [number for number in numbers if number not in letters]
    if unknown:
        raise StartError(f"there is no dead letter {unknown[0]}")
    return {number: letters[number] for number in numbers}


def _take_out(directory: Path, lines: Set[bytes]) -> int:
    """How many were still there: a live spool, or another command, may have changed the file since it was read."""
    if not lines:
        return 0
    try:
        with take_out(Disk(), directory) as kept:
            before = len(kept)
            kept[:] = [line for line in kept if line not in lines]
            return before - len(kept)
    except OSError as error:  # another holds the lock for long, or the disk is full
        raise StartError(f"{directory / DEAD} is as it was: {error.strerror}") from None


def _summary(raw: bytes) -> str:
    event = decode_object(raw) or {}
    entity, happening, source = (event.get(name) or {} for name in ("entity", "event", "app"))
    key = entity.get("sub_key") or entity.get("business_key") or ""
    facts = (happening.get("at"), happening.get("kind"), entity.get("type"), entity.get("id"), source.get("name"), key)
    return " ".join(map(str, facts))


def _print_line(value: object) -> None:
    sys.stdout.buffer.write(encode(value) + b"\n")
