"""The sidecar: takes events beside the application, and never loses one that it acknowledged.

accept -> group commit -> peer (the site's Local API)
             \\ away, refusing or too slow: spool -> replay -> peer
"""

import platform
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fabmon import metrics
from fabmon.errors import SettingsError
from fabmon.httpd.access import open_access
from fabmon.httpd.app import build_app
from fabmon.httpd.bound import within_sites
from fabmon.httpd.health import health_routes
from fabmon.httpd.openapi import openapi_route
from fabmon.httpd.role import Role
from fabmon.ingest.accept import ingest_routes
from fabmon.ingest.commit import Bounds, Group, Outcome, group_commit
from fabmon.ingest.openlineage import openlineage_routes
from fabmon.ingest.ping import ping_routes
from fabmon.peer.body import packs_towards
from fabmon.peer.client import Sent, open_peer
from fabmon.peer.credentials import credentials_of
from fabmon.relay.collect import collect
from fabmon.relay.contact import Speaker, keep_contact
from fabmon.relay.forward import Underway, forward
from fabmon.relay.replay import replay
from fabmon.relay.report import refresh_metrics, spool_health, upstream_health
from fabmon.relay.upstream import Upstream
from fabmon.roles.doors import SIDECAR
from fabmon.sdk.address import Address, read_address
from fabmon.settings import SidecarSettings
from fabmon.spool.limits import limits_of
from fabmon.spool.spool import open_spool
from fabmon.version import __version__
from fabmon.wire.event import BATCH_LIMIT_BYTES, BATCH_LIMIT_EVENTS, Batch, Receipt, Sink

_HERE = {"localhost", "127.0.0.1", "::1"}
_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - to compare with
_IN_FLIGHT = 4
_BOUNDS = Bounds(
    group_events=BATCH_LIMIT_EVENTS,
    group_events_least=1000,  # while the site keeps up, groups grow: each costs a request
    group_bytes=BATCH_LIMIT_BYTES - BATCH_LIMIT_EVENTS - 2,  # the commas and brackets that join them
    waiting_events=50_000,
    waiting_bytes=4 * BATCH_LIMIT_BYTES,
    waiting_requests=50_000,
)


@asynccontextmanager
async def open_sidecar(settings: SidecarSettings) -> AsyncIterator[Role]:
    _refuse_bad_url(settings)
    access = open_access(settings.tokens_file, settings.site_id or None)
    credentials = credentials_of(settings)
    upstream = Upstream(settings.local_url)
    async with (
        open_spool(settings.spool_path, limits_of(settings)) as spool,
        open_peer(
            settings.local_url, credentials, packs=packs_towards(settings.local_url, settings.forward_gzip)
        ) as peer,
    ):
        underway = Underway()
        speaker = Speaker(spool, underway, settings.site_id)

        async def send(group: Group) -> Outcome:
            headers = speaker.headers(len(group.raws))
            sent = await peer.send_batch(group.raws, settings.forward_timeout_s, headers, group.requests)
            speaker.hears(sent.clock)
            return Outcome(rejected={why.index: why for why in sent.rejected})

        async def deliver(raws: Sequence[bytes], patience_seconds: float) -> Sent:
            # A backlog's batch is larger than a fresh one, and nobody waits for it.
            patience = max(patience_seconds, settings.forward_timeout_s) if raws else patience_seconds
            sent = await peer.send_batch(raws, patience, speaker.headers())
            speaker.hears(sent.clock)
            return sent

        async def health() -> dict[str, Any]:
            return {
                "status": "ok" if upstream.pause is None else "degraded",
                "service": "sidecar-agent",
                "version": __version__,
                **await spool_health(spool),
                "upstream": upstream_health(upstream),
            }

        async def spool_ready() -> str | None:
            return spool.full()

        def refresh() -> None:
            refresh_metrics(spool, upstream)

        async with (
            group_commit(send, _BOUNDS, in_flight=_IN_FLIGHT, name="forward") as grouped,
            replay(spool, deliver, upstream, settings.drain_share),
            keep_contact(speaker, peer, upstream, deliver),
        ):
            forwarded = forward(grouped, spool, upstream, settings.forward_timeout_s, underway, spool_when_busy=True)
            sink = within_sites(_bytes_only(forwarded))
            routes = [
                *ingest_routes(sink, "sidecar", settings.site_id or None),
                *ping_routes(sink, settings.site_id or None),
                *openlineage_routes(sink, "sidecar", settings.site_id or None),
                *health_routes(health, {"spool": spool_ready}, refresh, metrics.SPOOLED),
            ]
            async with collect(settings.unsent_paths, _own_addresses(settings), sink, settings.site_id or None):
                yield Role(build_app([*routes, openapi_route(routes, SIDECAR, "fabmon sidecar")], access))


def _bytes_only(sink: Sink) -> Sink:
    """Of what was judged only the bytes go on: the events' memory, ten times theirs, serves the next request meanwhile."""

    async def on(batch: Batch) -> Receipt:
        batch.events.clear()
        return await sink(batch)

    return on


def _refuse_bad_url(settings: SidecarSettings) -> None:
    """What could never deliver stops the start; so does a sidecar that would deliver to itself, over and over.

    Nor is a password taken in a URL, which is shown in health and log: FABMON_TOKEN is for that.
    """
    url = settings.local_url
    shown = re.sub(r"//[^/]*@", "//...@", url)[:200]
    try:
        address = read_address(url)
    except SettingsError:
        raise SettingsError(f"FABMON_LOCAL_URL: {shown!r} is no URL such as http://localhost:18000") from None
    if any(each in url for each in "?# "):
        raise SettingsError(f"FABMON_LOCAL_URL: {shown!r} is no URL such as http://localhost:18000")
    hosts = {settings.host} | (_HERE if settings.host in _HERE | _EVERYWHERE else set())
    is_own_host = address.host.lower() in hosts and address.port == settings.port
    if is_own_host and address.secure == bool(settings.tls_cert):
        raise SettingsError(f"FABMON_LOCAL_URL: {url} is this sidecar itself")


def _own_addresses(settings: SidecarSettings) -> set[str]:
    """The short names of the URLs by which programs on this machine may know us."""
    hosts = {"localhost", "127.0.0.1", "::1", settings.host, platform.node()}
    return {Address(bool(settings.tls_cert), host, settings.port).short_name for host in hosts if host}
