"""Asking an API from the command line, and saying what it answers."""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPResponse
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from rich.text import Text

from fabmon.errors import SettingsError, StartError
from fabmon.peer.credentials import read_token_file
from fabmon.peer.tls import client_context, handshake_failure
from fabmon.wire.codec import decode_object

DEFAULT_URL: Final = "http://localhost:18000"
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
def ask(
    url: str, path: str, asked: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Iterator[HTTPResponse]:
    """The answer as it comes; None values are not asked."""
    base = base_url(url)
    if not base.startswith(("http://", "https://")):
        raise SettingsError(f"--url: {base!r} is no URL, such as {DEFAULT_URL}")
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    # S310, here and below: the scheme was checked above.
    request = Request(f"{base}{path}?{query}", headers={"accept": "application/json", **(headers or {})})  # noqa: S310
    if token := _token():
        request.add_header("authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS, context=_tls()) as response:  # noqa: S310
            yield response
    except HTTPError as error:
        problem = decode_object(error.read()) or {}
        raise StartError(f"{error.code}: {problem.get('detail', error.reason)}") from None
    except (URLError, OSError) as error:
        tls = handshake_failure(error) if base.startswith("https") else ""
        raise StartError(f"{base} does not answer: {tls or getattr(error, 'reason', None) or error}") from None


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


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
