"""Central: one place to ask, all sites answer; keeps nothing."""

import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from re import match
from typing import Any

from fabmon.errors import SettingsError
from fabmon.httpd.app import build_app
from fabmon.httpd.health import health_routes
from fabmon.httpd.openapi import openapi_route
from fabmon.httpd.role import Role
from fabmon.peer.client import open_peer
from fabmon.query.sites import site_routes, sites_health
from fabmon.roles.described import CENTRAL
from fabmon.settings import CentralSettings
from fabmon.stream.sites import merged_stream_routes
from fabmon.version import __version__
from fabmon.wire.event import SITE_ID_PATTERN


@asynccontextmanager
async def open_central(settings: CentralSettings) -> AsyncIterator[Role]:
    async with AsyncExitStack() as stack:
        sites = read_sites(settings.sites)
        peers = {name: await stack.enter_async_context(open_peer(url, settings.token)) for name, url in sites.items()}

        async def health() -> dict[str, Any]:
            # The top status is central's own: it answers. What the sites say stands below it.
            return {
                "status": "ok",
                "service": "central-api",
                "version": __version__,
                "sites": await sites_health(peers),
            }

        routes = [
            *site_routes(lambda: peers, settings.site_deadline_s),
            *merged_stream_routes(lambda: peers),
            *health_routes(health, {}, lambda: None),
        ]
        yield Role(build_app([*routes, openapi_route(routes, CENTRAL, "fabmon central")]))


def read_sites(text: str) -> dict[str, str]:
    """Site ids and URLs from `fab1=http://site1:18000,...` or a TOML file; raises SettingsError."""
    if text.endswith(".toml"):
        return {name: _checked(name, url) for name, url in _from_file(Path(text)).items()}
    sites: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, url = part.partition("=")
        if not equals:
            raise SettingsError(f"FABMON_SITES: {part[:60]!r} is not NAME=URL, as in fab1=http://site1:18000")
        if name.strip() in sites:
            raise SettingsError(f"FABMON_SITES: {name.strip()} is given twice")
        sites[name.strip()] = _checked(name.strip(), url.strip())
    return sites


def _from_file(path: Path) -> dict[str, Any]:
    """`[fab1]` with `url = "http://site1:18000"` for each site."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"FABMON_SITES: {path} cannot be read: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict) or not isinstance(table.get("url"), str):
            raise SettingsError(f'FABMON_SITES: {path}: write [{name}] and below it url = "http://site1:18000"')
    return {name: table["url"] for name, table in tables.items()}


def _checked(name: str, url: str) -> str:
    if not match(SITE_ID_PATTERN, name):
        raise SettingsError(f"FABMON_SITES: {name[:60]!r} is no site id")
    if not match(r"\Ahttps?://[^/\s]+", url):
        raise SettingsError(f"FABMON_SITES: {url[:60]!r} is no URL, such as http://site1:18000")
    return url
