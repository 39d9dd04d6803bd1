"""Where the sidecar listens, the token for it, and where events wait for it: from the environment of the job.

Imported at every start of `fabmon run`, so it imports next to nothing itself.
"""

from __future__ import annotations

import os

from fabmon.errors import SettingsError
from fabmon.places import default_data_dir
from fabmon.wire.plain import id_of_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

DEFAULT_URL: Final = "http://localhost:8000"
DEFAULT_SITE_ID: Final = "fab1"


class Address:
    """Where the sidecar listens."""

    __slots__ = ("host", "path", "port", "secure")

    def __init__(self, secure: bool, host: str, port: int, path: str = "") -> None:
        self.secure = secure
        self.host = host
        self.port = port
        self.path = path

    @property
    def short_name(self) -> str:
        """Stands for the address in the name of a file."""
        name = f"{self.secure} {self.host.lower()} {self.port} {self.path}"
        return id_of_name(name).replace("-", "")[:12]


def read_address(url: str) -> Address:
    """The parts of a sidecar's URL. Raises SettingsError."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, port_text = _host_and_port(authority)
    in_brackets = host[:1] + host[-1:] == "[]"
    wrong = (
        scheme not in ("http", "https")
        or not (_only(host[1:-1], "0123456789ABCDEFabcdef:.") if in_brackets else _only(host, _HOST_CHARACTERS))
        or len(port_text) > 5
        or not port_text.isascii()
        or not port_text.isdigit()
        or int(port_text) > 65535
        or not all("!" <= character <= "~" and character not in "?#" for character in path)
    )
    if wrong:
        raise SettingsError(f"the sidecar's URL is http://HOST:PORT or https://HOST:PORT (it is {url[:200]!r})")
    secure = scheme == "https"
    port = int(port_text) or (443 if secure else 80)
    return Address(secure, host.strip("[]"), port, (slash + path).rstrip("/"))


def read_token(environment: Mapping[str, str]) -> str:
    """FABMON_TOKEN, or what the file FABMON_TOKEN_FILE holds. Raises SettingsError."""
    path = environment.get("FABMON_TOKEN_FILE", "")
    token = environment.get("FABMON_TOKEN", "")
    try:
        if not token and path:
            with open(path, encoding="utf-8") as file:
                token = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"FABMON_TOKEN_FILE: {path!r} cannot be read: {error}") from None
    token = token.strip()
    if not (token.isascii() and token.isprintable()):  # http.client's complaint would repeat it
        raise SettingsError("FABMON_TOKEN: a token is one line of printable ASCII")
    return token


def unsent_place(environment: Mapping[str, str] = os.environ) -> str:
    """The directory of events that wait for a sidecar."""
    return (environment.get("FABMON_DATA_DIR") or default_data_dir()) + "/unsent"


_HOST_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def _host_and_port(authority: str) -> tuple[str, str]:
    """The port as text, 0 where none is given."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        return authority, "0"
    return host, port


def _only(text: str, characters: str) -> bool:
    return text != "" and all(character in characters for character in text)
