"""`fabmon spool dead`: events that the other side refused for good; look at them, send them once more, take them out."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fabmon.cli.spool_options import Dir, Json, Url, in_a_line, print_line, spool_directory, summary
from fabmon.cli.spool_send import send_letters
from fabmon.errors import StartError
from fabmon.spool.dead import letter_lines, take_out
from fabmon.spool.disk import Disk
from fabmon.spool.letters import DEAD
from fabmon.spool.look import look
from fabmon.wire.codec import decode_object

app = typer.Typer(help="Events that the other side refused for good.", no_args_is_help=True)

Numbers = Annotated[list[int] | None, typer.Argument(help="Letters by their number in `ls`.")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]


@app.command()
def ls(directory: Dir = None, as_json: Json = False) -> None:
    """Every dead letter: its number, since when, why, and which event."""
    for number, line in _letters(spool_directory(directory)):
        letter = _read(line)
        if as_json:
            print_line({**letter, "number": number})
            continue
        status = f" ({letter['status']})" if letter.get("status") else ""
        tries = f" after {letter['attempts']} tries" if letter.get("attempts", 1) != 1 else ""
        why = f"{letter.get('code')}{status}: {letter.get('detail', '')}{tries}"
        print(f"{number:>6} {letter.get('at', '')} {in_a_line(why)}; {summary(letter.get('event'))}")


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="Its number in `ls`.")], directory: Dir = None, as_json: Json = False
) -> None:
    """One dead letter with its event; one that cannot be read as it is."""
    for each, line in _letters(spool_directory(directory)):
        if each != number:
            continue
        if as_json:
            print_line({**_read(line), "number": number})
        elif decode_object(line) is None:
            sys.stdout.buffer.write(line)
        else:
            sys.stdout.buffer.write(msgspec.json.format(line, indent=2) + b"\n")
        return
    raise StartError(f"there is no dead letter {number}")


@app.command()
def retry(
    numbers: Numbers = None, every: All = False, directory: Dir = None, url: Url = "", as_json: Json = False
) -> None:
    """Send dead letters to a Local API once more, and take out those that it accepts; exit code 1 when some are left."""
    place = spool_directory(directory)
    chosen = _chosen(place, numbers, every)
    taken: set[bytes] = set()
    try:
        asyncio.run(send_letters(list(chosen.values()), url, taken))
    finally:  # also of those before a failure
        accepted = [line for line in chosen.values() if line in taken]
        _take_out(place, accepted)
    if as_json:
        print_line({"chosen": len(chosen), "accepted": len(accepted)})
    else:
        print(f"{len(accepted)} of {len(chosen)} accepted")
    if len(accepted) < len(chosen):
        raise typer.Exit(1)


@app.command()
def drop(numbers: Numbers = None, every: All = False, directory: Dir = None, as_json: Json = False) -> None:
    """Take dead letters out for good."""
    place = spool_directory(directory)
    dropped = _take_out(place, list(_chosen(place, numbers, every).values()))
    if as_json:
        print_line({"dropped": dropped})
    else:
        print(f"{dropped} dropped")


def _letters(directory: Path) -> Iterator[tuple[int, bytes]]:
    """Raises StartError when there is no spool, or it cannot be read."""
    number = 0
    try:
        for number, line in enumerate(letter_lines(Disk(), directory), 1):
            yield number, line
    except OSError as error:
        raise StartError(f"{directory / DEAD} cannot be read: {error.strerror}") from None
    if not number:
        look(directory)  # none at all is another answer than no spool


def _read(line: bytes) -> dict[str, Any]:
    """A letter; one that is damaged says so."""
    letter = decode_object(line)
    if letter is None:
        shown = line.decode(errors="replace").rstrip("\n")
        return {"code": "unreadable", "detail": f"{len(line)} damaged bytes", "line": shown}
    return letter


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


def _take_out(directory: Path, lines: Sequence[bytes]) -> int:
    """How many were still there: a live spool, or another command, may have changed the file since it was read."""
    if not lines:
        return 0
    try:
        with take_out(Disk(), directory) as kept:
            chosen, left = Counter(lines), []
            for line in kept:
                if chosen[line]:
                    chosen[line] -= 1
                else:
                    left.append(line)
            taken = len(kept) - len(left)
            kept[:] = left
            return taken
    except OSError as error:  # another holds the lock for long, or the disk is full
        raise StartError(f"{directory / DEAD} is as it was: {error.strerror}") from None
