"""`fabmon token`: make, list and revoke the tokens of FABMON_TOKENS_FILE; roles that use it notice within a second."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from fabmon.cli.screen import screen
from fabmon.clock import monotonic, now
from fabmon.durable import lock_directory
from fabmon.errors import SettingsError, StartError
from fabmon.httpd.tokens import Token, hash_of, new_secret, read_tokens, write_tokens
from fabmon.settings import SidecarSettings, load

_LOCK_SECONDS: Final = 10.0

app = typer.Typer(help="Make, list and revoke tokens.", no_args_is_help=True)

File = Annotated[str, typer.Option("--file", help="The tokens file; env: FABMON_TOKENS_FILE.")]


@app.command()
def new(
    name: Annotated[
        str, typer.Option(help="Who will use it; the same name again makes a second one beside the first.")
    ],
    scope: Annotated[list[str], typer.Option(help="ingest, read or admin; may be given several times.")],
    site: Annotated[list[str] | None, typer.Option(help="Only for this site; may be given several times.")] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Refused after so many days.")] = None,
    file: File = "",
) -> None:
    """Add a token; it is printed once, alone on the last line, and kept nowhere: the file holds its hash."""
    path, secret, at = _path(file), new_secret(), now().replace(microsecond=0)
    made = _checked(
        {
            "name": name,
            "hash": hash_of(secret.encode()),
            "scopes": list(dict.fromkeys(part for text in scope for part in text.split(","))),
            "sites": list(dict.fromkeys(part for text in site for part in text.split(","))) if site else None,
            "created": at,
            "expires": None if expires_days is None else at + timedelta(days=expires_days),
        }
    )
    with _locked(path):
        write_tokens(path, [*_existing(path), made])
    typer.echo(f"token {made.id} of {name} added to {path}; it is shown this once:", err=True)
    print(secret)


@app.command(name="list")
def list_tokens(file: File = "") -> None:
    """Show what is in the file; the tokens themselves are in no file."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "name", "scopes", "sites", "created", "expires"):
        table.add_column(title, overflow="fold")
    for each in read_tokens(_path(file)):
        expires = "never" if each.expires is None else f"{each.expires:%Y-%m-%d %H:%M}"
        created = "" if each.created is None else f"{each.created:%Y-%m-%d}"
        table.add_row(
            each.id,
            each.name,
            ",".join(each.scopes),
            "all" if each.sites is None else ",".join(each.sites),
            created,
            f"{expires} (over)" if each.is_expired() else expires,
        )
    screen().print(table)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="[NAME|ID]", help="All tokens of a name, or the one of an id.")] = "",
    name: Annotated[str, typer.Option(help="The same, as an option.")] = "",
    file: File = "",
) -> None:
    """Remove tokens from the file: requests that present them are refused within a second."""
    wanted = which or name
    if not wanted or (which and name):
        raise SettingsError("fabmon token revoke: give one NAME or ID; `fabmon token list` shows them")
    path = _path(file)
    with _locked(path):
        tokens = read_tokens(path)
        kept = [each for each in tokens if wanted not in (each.name, each.id)]
        if len(kept) == len(tokens):
            raise StartError(f"{path} holds no token {wanted!r}; `fabmon token list` shows them")
        write_tokens(path, kept)
    print(f"revoked {len(tokens) - len(kept)} of {wanted}")
    if not kept:
        print(f"{path} holds no token any more: every request is refused")


def _path(file: str) -> Path:
    text = file or load(SidecarSettings, os.environ).tokens_file
    if not text:
        raise SettingsError("FABMON_TOKENS_FILE is not set, and no --file is given: there is no file for tokens")
    return Path(text).absolute()


def _existing(path: Path) -> Sequence[Token]:
    """None in a file that is not there, or that was made empty beforehand."""
    if not path.exists() or path.stat().st_size == 0:
        return ()
    return read_tokens(path)


def _checked(values: dict[str, object]) -> Token:
    try:
        return msgspec.convert(values, Token)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at ")
        option = where.strip("`$.").partition("[")[0].rstrip("s")
        raise SettingsError(f"--{option}: {why}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once would each write without the other's token."""
    deadline = monotonic() + _LOCK_SECONDS
    try:
        while True:
            try:
                lock = lock_directory(path.with_name(f".{path.name}.lock"))
                break
            except StartError:
                if monotonic() > deadline:
                    raise
            time.sleep(0.02)
        with lock:
            yield
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
