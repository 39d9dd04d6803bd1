"""Where the sidecar listens, the token for it, and where events wait for it: from the environment of the job."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid5

from fabmon.errors import SettingsError
from fabmon.wire.ids import APP_NAMESPACE

DEFAULT_URL: Final = "http://localhost:8000"
DEFAULT_SITE_ID: Final = "fab1"

_URL: Final = re.compile(
    r"\A(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?P<path>(?:/[!-~]*)?)\Z"
)


class Address(NamedTuple):
    """Where the sidecar listens."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def short_name(self) -> str:
        """Stands for the address in the name of a file."""
        return uuid5(APP_NAMESPACE, f"{self.secure} {self.host.lower()} {self.port} {self.path}").hex[:12]


def read_address(url: str) -> Address:
    """The parts of a sidecar's URL. Raises SettingsError."""
    match = _URL.match(url)
    port = int((match and match["port"]) or 0)
    if match is None or port > 65535 or re.search("[?#]", match["path"]):
        raise SettingsError(f"the sidecar's URL is http://HOST:PORT or https://HOST:PORT (it is {url[:200]!r})")
    secure = match["scheme"] == "https"
    return Address(secure, match["host"].strip("[]"), port or (443 if secure else 80), match["path"].rstrip("/"))


def read_token(environment: Mapping[str, str]) -> str:
    """FABMON_TOKEN, or what the file FABMON_TOKEN_FILE holds. Raises SettingsError."""
    path = environment.get("FABMON_TOKEN_FILE", "")
    if environment.get("FABMON_TOKEN") or not path:
        return environment.get("FABMON_TOKEN", "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"FABMON_TOKEN_FILE: {path!r} cannot be read: {error}") from None


def unsent_directory(environment: Mapping[str, str] = os.environ) -> Path:
    if environment.get("FABMON_DATA_DIR"):
        return Path(environment["FABMON_DATA_DIR"]) / "unsent"
    from fabmon.settings import default_data_dir  # 10 ms that a run with a sidecar need not spend

    return default_data_dir() / "unsent"
