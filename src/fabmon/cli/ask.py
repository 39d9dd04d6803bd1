"""Asking an API from the command line."""

import errno
import os
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from threading import Timer
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from fabmon.errors import SettingsError, StartError
from fabmon.peer.credentials import read_token_file
from fabmon.peer.tls import client_context, handshake_failure
from fabmon.wire.codec import decode_object

DEFAULT_URL: Final = "http://localhost:18000"
# What a connection does not say, and a disk or a reader of our output does.
OUTPUT_ERRORS: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})
_TIMEOUT_SECONDS: Final = 30.0
_SLOW_SECONDS: Final = 3.0


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
    slow = Timer(_SLOW_SECONDS, _say, [f"still waiting for {base}"])
    slow.daemon = True
    slow.start()
    try:
        _send(connection, f"{prefix}{path}?{query}", headers)
        with connection.getresponse() as response:
            slow.cancel()
            if response.status != 200:
                raise StartError(_refusal(base, path, response))
            begun = True
            yield response
    except (OSError, HTTPException) as error:
        if begun and isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
            raise  # not the API's: our output cannot be written, or nobody reads it any more
        tls = handshake_failure(error) if base.startswith("https") and not begun else ""
        why = tls or str(error) or type(error).__name__
        raise StartError(f"{base} {'broke off' if begun else 'does not answer'}: {why}") from None
    finally:
        slow.cancel()
        connection.close()


def _refusal(base: str, path: str, response: HTTPResponse) -> str:
    """What the API says; and where another kind of API was meant, that."""
    problem = decode_object(response.read()) or {}
    said = f"{response.status}: {problem.get('detail', response.reason)}"
    if response.status == 404 and problem.get("detail") in (None, "Not Found"):  # the router's word, not about a job
        return f"{said}: {base} has no {path}, which a local or central API has"
    if (response.status, problem.get("detail")) == (422, "site: unknown parameter"):
        return f"{said}: {base} is no central API, and answers without --site"
    return said


def _say(text: str) -> None:
    print(f"fabmon: {text}", file=sys.stderr, flush=True)


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
