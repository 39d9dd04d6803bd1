"""Asking an API from the command line, and saying what it answers."""

import errno
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from rich.text import Text

from fabmon.errors import SettingsError, StartError
from fabmon.peer.credentials import read_token_file
from fabmon.peer.tls import client_context, handshake_failure
from fabmon.wire.codec import decode_object

DEFAULT_URL: Final = "http://localhost:18000"
# What a connection does not say, and a disk or a reader of our output does.
OUTPUT_ERRORS: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})
_COLOURS: Final = {"running": "cyan", "succeeded": "green", "failed": "bold red", "canceled": "yellow"}
_TIMEOUT_SECONDS: Final = 30.0


def base_url(url: str) -> str:
    """The API to ask: the flag, FABMON_URL, or the local API of this machine."""
    return (url or os.environ.get("FABMON_URL") or DEFAULT_URL).rstrip("/")


def fetch(url: str, path: str, asked: Mapping[str, Any]) -> bytes:
    """The whole answer; raises StartError with what the API says, or that it does not answer."""
    with ask(url, path, asked) as response:
        content: bytes = response.read()
        return content


@contextmanager
def ask(url: str, path: str, asked: Mapping[str, Any]) -> Iterator[HTTPResponse]:
    """The answer as it comes; None values are not asked."""
    base = base_url(url)
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    headers = {"accept": "application/json"}
    if token := _token():
        headers["authorization"] = f"Bearer {token}"
    connection, prefix = _connection(base)
    begun = False
    try:
        _send(connection, f"{prefix}{path}?{query}", headers)
        with connection.getresponse() as response:
            if response.status != 200:
                problem = decode_object(response.read()) or {}
                raise StartError(f"{response.status}: {problem.get('detail', response.reason)}")
            begun = True
            yield response
    except (OSError, HTTPException) as error:
        if begun and isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
            raise  # not the API's: our output cannot be written, or nobody reads it any more
        tls = handshake_failure(error) if base.startswith("https") and not begun else ""
        why = tls or str(error) or type(error).__name__
        raise StartError(f"{base} {'broke off' if begun else 'does not answer'}: {why}") from None
    finally:
        connection.close()


def _connection(base: str) -> tuple[HTTPConnection, str]:
    """A connection that is not opened yet, and what the URL has behind the host."""
    try:
        parts = urlsplit(base)
        # With a port, or http.client would look for one behind the last colon of an IPv6 address.
        if parts.scheme == "https" and parts.hostname:
            tls = HTTPSConnection(parts.hostname, parts.port or 443, timeout=_TIMEOUT_SECONDS, context=_tls())
            return tls, parts.path
        if parts.scheme == "http" and parts.hostname:
            return HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_SECONDS), parts.path
    except (ValueError, HTTPException):
        pass  # said below
    raise SettingsError(f"--url: {base!r} is no URL, such as {DEFAULT_URL}")


def _send(connection: HTTPConnection, target: str, headers: Mapping[str, str]) -> None:
    try:
        connection.request("GET", target, headers=headers)
    except OSError:
        raise  # a certificate that is refused is a ValueError, too
    except (ValueError, InvalidURL):  # its words may hold the token
        raise SettingsError("--url or FABMON_TOKEN holds what HTTP cannot carry") from None


def _token() -> str:
    """As the roles have it: FABMON_TOKEN, or what FABMON_TOKEN_FILE holds."""
    path = os.environ.get("FABMON_TOKEN_FILE")
    return os.environ.get("FABMON_TOKEN") or (read_token_file(path) if path else "")


def _tls() -> ssl.SSLContext:
    """As the roles have it: FABMON_CA, FABMON_CLIENT_CERT, FABMON_CLIENT_KEY."""
    names = ("FABMON_CA", "FABMON_CLIENT_CERT", "FABMON_CLIENT_KEY")
    return client_context(*(os.environ.get(name, "") for name in names))


def coloured(status: str, shown: str | None = None) -> Text:
    return Text(shown or status, style=_COLOURS.get(status, ""))


def local_time(text: str) -> str:
    """Today's jobs by their time, older ones by their day."""
    at = datetime.fromisoformat(text).astimezone()
    return at.strftime("%H:%M:%S" if at.date() == datetime.now().astimezone().date() else "%m-%d %H:%M")


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
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
