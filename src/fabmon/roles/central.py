"""Central: one place to ask, all sites answer; keeps nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fabmon import metrics
from fabmon.httpd.access import open_access
from fabmon.httpd.app import build_app
from fabmon.httpd.bound import Visible
from fabmon.httpd.health import health_routes
from fabmon.httpd.openapi import openapi_route
from fabmon.httpd.role import Role
from fabmon.query.probe import probe_sites
from fabmon.query.sites import site_routes, sites_health
from fabmon.roles.described import CENTRAL
from fabmon.roles.watched import open_sites
from fabmon.settings import CentralSettings
from fabmon.stream.sites import merged_stream_routes
from fabmon.version import __version__


@asynccontextmanager
async def open_central(settings: CentralSettings) -> AsyncIterator[Role]:
    access = open_access(settings.tokens_file, asks_sites=True)
    async with open_sites(settings) as sites, probe_sites(sites):
        peers = Visible(sites)

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
            *health_routes(health, {}, lambda: None, metrics.FEDERATED),
        ]
        yield Role(build_app([*routes, openapi_route(routes, CENTRAL, "fabmon central")], access))
