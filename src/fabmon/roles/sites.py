"""The sites that central asks: from FABMON_SITES itself, or from the TOML file that it names.

[fab1]
url = "https://site1:18000"
token_file = "/etc/fabmon/token-fab1"   # or token = "…"; without one: FABMON_TOKEN
ca = "/etc/fabmon/fab1-ca.pem"          # also client_cert, client_key; without them: FABMON_CA and the like
deadline = 1.5                          # seconds; FABMON_SITE_DEADLINE_S stays the most
"""

import sys
import tomllib
from pathlib import Path
from re import match
from typing import Annotated

import msgspec
from msgspec import Meta

from fabmon.errors import SettingsError
from fabmon.wire.event import SITE_ID_PATTERN


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    token: str = ""
    token_file: str = ""
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    deadline: Annotated[float, Meta(gt=0, le=86_400)] | None = None


def read_sites(text: str) -> dict[str, Site]:
    """Sites by id from `fab1=http://site1:18000,...` or a TOML file; raises SettingsError."""
    sites = _from_file(Path(text)) if text.endswith(".toml") else _from_list(text)
    for name, site in sites.items():
        if not match(SITE_ID_PATTERN, name):
            raise SettingsError(f"FABMON_SITES: {name[:60]!r} is no site id")
        if not match(r"\Ahttps?://[^/\s]+", site.url):
            raise SettingsError(f"FABMON_SITES: {site.url[:60]!r} is no URL, such as http://site1:18000")
    return sites


def _from_list(text: str) -> dict[str, Site]:
    sites: dict[str, Site] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, url = part.partition("=")
        if not equals:
            raise SettingsError(f"FABMON_SITES: {part[:60]!r} is not NAME=URL, as in fab1=http://site1:18000")
        if name.strip() in sites:
            raise SettingsError(f"FABMON_SITES: {name.strip()} is given twice")
        sites[name.strip()] = Site(url.strip())
    return sites


def _from_file(path: Path) -> dict[str, Site]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"FABMON_SITES: {path} cannot be read: {error}") from None
    sites = {name: _site(path, name, table) for name, table in tables.items()}
    if sys.platform != "win32" and any("token" in table for table in tables.values()) and path.stat().st_mode & 0o007:
        raise SettingsError(f"FABMON_SITES: {path} holds tokens, and others may use it: chmod 600 or 640 it")
    return sites


def _site(path: Path, name: str, table: object) -> Site:
    try:
        site = msgspec.convert(table, Site)
    except msgspec.ValidationError as error:
        why = str(error).replace("`$.", "`")
        raise SettingsError(
            f'FABMON_SITES: {path}, [{name}]: {why}; write [{name}] and below it url = "http://site1:18000"'
        ) from None
    if not site.token_file:
        return site
    try:
        return msgspec.structs.replace(site, token=Path(site.token_file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"FABMON_SITES: {path}, [{name}]: token_file: {error}") from None
