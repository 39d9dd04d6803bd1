"""Central: one place to ask, all sites answer; keeps nothing."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fabmon.httpd.access import open_access
from fabmon.httpd.app import build_app
from fabmon.httpd.bound import Visible
from fabmon.httpd.health import health_routes
from fabmon.httpd.openapi import openapi_route
from fabmon.httpd.role import Role
from fabmon.peer.client import Peer, open_peer
from fabmon.peer.tls import client_context
from fabmon.query.sites import site_routes, sites_health
from fabmon.roles.described import CENTRAL
from fabmon.roles.sites import Site, read_sites
from fabmon.settings import CentralSettings
from fabmon.stream.sites import merged_stream_routes
from fabmon.version import __version__


@asynccontextmanager
async def open_central(settings: CentralSettings) -> AsyncIterator[Role]:
    access = open_access(settings.tokens_file, asks_sites=True)
    async with AsyncExitStack() as stack:
        sites = read_sites(settings.sites)
        peers = Visible({name: await stack.enter_async_context(_peer(site, settings)) for name, site in sites.items()})

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
        yield Role(build_app([*routes, openapi_route(routes, CENTRAL, "fabmon central")], access))


def _peer(site: Site, settings: CentralSettings) -> AbstractAsyncContextManager[Peer]:
    """What the site's table leaves out is as for all sites."""
    certificate, key = (
        (site.client_cert, site.client_key) if site.client_cert else (settings.client_cert, settings.client_key)
    )
    tls = client_context(site.ca or settings.ca, certificate, key)
    return open_peer(site.url, site.token or settings.token, tls, site.deadline)
