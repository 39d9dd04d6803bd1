"""`fabmon spool`: look into a spool, live or copied; send what it holds; deal with dead letters.

Everything only reads, except `replay`, `dead retry` and `dead drop`, which say so.
"""

import asyncio
import sys
from typing import Annotated, Any

import msgspec
import typer

from fabmon.cli import spool_dead
from fabmon.cli.spool_options import Dir, Json, Url, print_line, spool_directory, summary
from fabmon.cli.spool_send import drain, send_copy
from fabmon.errors import StartError
from fabmon.spool.frame import Record
from fabmon.spool.look import check, contents, look, pending
from fabmon.spool.segment import Damage

app = typer.Typer(help="Look into a spool, live or copied; send what it holds; its dead letters.", no_args_is_help=True)
app.add_typer(spool_dead.app, name="dead")


@app.command()
def stat(directory: Dir = None, as_json: Json = False) -> None:
    """How many events came into the spool, and what became of them; those that the site took at once never did."""
    view = look(spool_directory(directory))
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
        "oldest_pending_age_s": None if (age := view.oldest_segment_age_s) is None else round(age, 3),
        "set_aside_files": view.set_aside_files,
    }
    if as_json:
        print_line(facts)
        return
    for name, value in facts.items():
        print(f"{name:21} {_plain(value)}")


@app.command()
def ls(
    directory: Dir = None,
    limit: Annotated[int, typer.Option(min=1, help="Most events.")] = 100,
    as_json: Json = False,
) -> None:
    """The pending events, oldest first."""
    for number, record in enumerate(pending(look(spool_directory(directory)))):
        if number >= limit:
            print(f"... more than {limit}; see --limit", file=sys.stderr)
            return
        if as_json:
            _print_record(record)
        else:
            print(f"{record.seq:>12} {summary(record.raw)}")


@app.command()
def show(
    seq: Annotated[int, typer.Argument(help="The event's sequence, as `ls` shows it.")],
    directory: Dir = None,
    as_json: Json = False,
) -> None:
    """One event, as it was accepted; also one that has been delivered, while its segment is there."""
    for _, item in contents(look(spool_directory(directory))):
        if isinstance(item, Record) and item.seq == seq:
            if as_json:
                _print_record(item)
            else:
                sys.stdout.buffer.write(msgspec.json.format(item.raw, indent=2) + b"\n")
            return
    raise StartError(f"there is no event {seq}")


@app.command()
def verify(directory: Dir = None, as_json: Json = False) -> None:
    """Check every byte; exit code 1 when something is damaged or the books do not balance."""
    view = look(spool_directory(directory))

    def tell(found: Damage) -> None:
        (print_line(found) if as_json else print(f"{found.what}: {found.file} at {found.offset}, {found.length} bytes"))

    checked = check(view, tell)
    facts = {
        "whole": checked.whole,
        "missing": checked.missing,
        "findings": checked.damaged,
        "books": view.books_found and view.books.balanced,
    }
    if as_json:
        print_line(facts)
    else:
        print(f"{checked.whole} pending events whole, {checked.missing} missing, {checked.damaged} damaged places")
        if not facts["books"]:
            print("the books are missing, damaged or do not balance")
    if checked.damaged or checked.missing or not facts["books"]:
        raise typer.Exit(1)


@app.command()
def export(directory: Dir = None, as_json: Json = False) -> None:
    """The pending events as they were accepted, one JSON object a line: for `fabmon`'s ingest, or for jq.

    With --json each with its sequence, as `ls --json` shows them.
    """
    for record in pending(look(spool_directory(directory))):
        if as_json:
            _print_record(record)
        else:
            sys.stdout.buffer.write(record.raw + b"\n")


@app.command()
def replay(
    directory: Dir = None,
    url: Url = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Send, and leave the spool as it is; also beside a sidecar.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send the pending events to a Local API, and acknowledge them; the spool must not be in use, unless --keep.

    Exit code 1 when some are left, or were refused; those are dead letters then, without --keep.
    """
    place = spool_directory(directory)
    view = look(place)
    tell = print_line if as_json else None
    asyncio.run(send_copy(view, url, tell) if keep else drain(place, url, tell))


def _plain(fact: Any) -> str:
    """`-` for what there is none of."""
    if isinstance(fact, dict):
        fact = [f"{name}={value}" for name, value in fact.items()]
    if isinstance(fact, list | tuple):
        fact = " ".join(map(str, fact))
    return "-" if fact in (None, "") else str(fact)


def _print_record(record: Record) -> None:
    sys.stdout.buffer.write(b'{"seq":%d,"event":%b}\n' % (record.seq, record.raw))
