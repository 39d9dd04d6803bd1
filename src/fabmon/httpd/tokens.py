"""The tokens file: who may do what. Only hashes are in it, so whoever reads it cannot use it.

One JSON object a line, `#` begins a comment:

    {"name":"etch-07","hash":"sha256:9f86…","scopes":["ingest"],"sites":["fab1"],"created":"…","expires":"…"}

A token is 256 random bits. Nobody guesses those, however fast the hash: a slow one (scrypt, argon2) protects passwords that
people choose, and would cost each request what a whole batch costs here. The same name may stand there twice while a token
is being replaced.
"""

import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from fabmon.clock import now
from fabmon.durable import fsync_directory
from fabmon.errors import SettingsError
from fabmon.wire.codec import encode
from fabmon.wire.event import SITE_ID_PATTERN

ScopeName = Literal["ingest", "read", "admin"]
Site = Annotated[str, Meta(pattern=SITE_ID_PATTERN)]

HEADER: Final = b"# Tokens of fabmon, hashed; written by `fabmon token`.\n"
_PREFIX: Final = "fabmon_"  # so that a scanner finds one that was committed by mistake
_LARGEST_BYTES: Final = 4 * 1024 * 1024
_BY_OTHERS: Final = stat.S_IRWXO | stat.S_IWGRP


class Token(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One accepted token; without *sites* it is for all of them."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[^\s\x00-\x1f\"]+\Z")]
    hash: Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[ScopeName, ...], Meta(min_length=1)]
    sites: tuple[Site, ...] | None = None
    created: Annotated[datetime, Meta(tz=True)] | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None

    @property
    def id(self) -> str:
        """What tells it from another of the same name."""
        return self.hash.removeprefix("sha256:")[:8]

    def is_expired(self) -> bool:
        return self.expires is not None and now() >= self.expires

    def may(self, scope: ScopeName) -> bool:
        """`admin` includes the other two."""
        return scope in self.scopes or "admin" in self.scopes


_TOKEN: Final = msgspec.json.Decoder(Token)


def new_secret() -> str:
    """A new token: 256 bits from the system's source of randomness."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: bytes) -> str:
    return "sha256:" + hashlib.sha256(secret).hexdigest()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens in the file; raises SettingsError that says what is wrong with it, and where."""
    try:
        with path.open("rb") as file:
            _refuse_open_file(path, os.fstat(file.fileno()))
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"FABMON_TOKENS_FILE: {path}: {error.strerror}") from None
    if len(content) > _LARGEST_BYTES:
        raise SettingsError(f"FABMON_TOKENS_FILE: {path} is larger than {_LARGEST_BYTES} bytes")
    if not content.strip():
        raise SettingsError(f"FABMON_TOKENS_FILE: {path} is empty; `fabmon token new` adds a token")
    return tuple(_read_lines(path, content))


def write_tokens(path: Path, tokens: Sequence[Token]) -> None:
    """Replace the file as a whole, readable by its owner alone; its group and owner stay what they were."""
    content = HEADER + b"".join(encode(token) + b"\n" for token in tokens)
    path = path.resolve()  # behind a link it is the file that changes, not the link
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32" and path.exists():
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), 0o600 | before.st_mode & stat.S_IRGRP)
        temporary.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refuse_open_file(path: Path, found: os.stat_result) -> None:
    """Whoever may write it may let anybody in; whoever may read it learns names and sites. Windows has other rules."""
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"FABMON_TOKENS_FILE: {path} is no file")
    if sys.platform != "win32" and found.st_mode & _BY_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise SettingsError(f"FABMON_TOKENS_FILE: {path} has mode {mode:04o}; others may use it: chmod 600 or 640 it")


def _read_lines(path: Path, content: bytes) -> list[Token]:
    tokens: list[Token] = []
    hashes: set[str] = set()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            token = _TOKEN.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"FABMON_TOKENS_FILE: {path}, line {number}: {error}") from None
        if token.hash in hashes:
            raise SettingsError(f"FABMON_TOKENS_FILE: {path}, line {number}: the same hash stands there twice")
        hashes.add(token.hash)
        tokens.append(token)
    return tokens
