"""The sidecar: takes events beside the application, and never loses one that it acknowledged.

accept -> group commit -> peer (the site's Local API)
             \\ away, refusing or too slow: spool -> replay -> peer
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fabmon import metrics
from fabmon.httpd.app import build_app
from fabmon.httpd.health import health_routes
from fabmon.httpd.openapi import openapi_route
from fabmon.httpd.role import Role
from fabmon.ingest.accept import ingest_routes
from fabmon.ingest.commit import Bounds, Group, Outcome, group_commit
from fabmon.peer.client import open_peer
from fabmon.relay.forward import Upstream, forward
from fabmon.relay.replay import replay
from fabmon.roles.described import SIDECAR
from fabmon.settings import SidecarSettings
from fabmon.spool.spool import open_spool
from fabmon.version import __version__
from fabmon.wire.event import BATCH_LIMIT_BYTES, BATCH_LIMIT_EVENTS, Rejection

_IN_FLIGHT = 4
_BOUNDS = Bounds(
    group_events=BATCH_LIMIT_EVENTS,
    group_bytes=BATCH_LIMIT_BYTES - BATCH_LIMIT_EVENTS - 2,  # the commas and brackets that join them
    waiting_events=50_000,
    waiting_bytes=4 * BATCH_LIMIT_BYTES,
    waiting_requests=50_000,
)


@asynccontextmanager
async def open_sidecar(settings: SidecarSettings) -> AsyncIterator[Role]:
    upstream = Upstream(settings.local_url)
    async with (
        open_spool(settings.spool_path, settings.spool_max_bytes) as spool,
        open_peer(settings.local_url, settings.token) as peer,
    ):

        async def send(group: Group) -> Outcome:
            sent = await peer.send_batch(group.raws, settings.forward_timeout_s)
            return Outcome(rejected={why.index: why for why in sent.rejected})

        async def deliver(raws: Sequence[bytes]) -> Sequence[Rejection]:
            # A backlog's batch is larger than a fresh one, and nobody waits for it.
            return (await peer.send_batch(raws, max(30.0, settings.forward_timeout_s))).rejected

        async def health() -> dict[str, Any]:
            return {
                "status": "ok" if upstream.state == "ok" else "degraded",
                "service": "sidecar-agent",
                "version": __version__,
                "spool_count": spool.pending,
                "spool_dir": str(spool.directory),
                "spool_bytes": spool.size_bytes,
                "oldest_pending_age_s": await spool.oldest_pending_age(),
                "dead_letters": spool.dead_letters,
                "upstream": {"url": upstream.name, "state": upstream.state, "reason": upstream.reason},
            }

        async def spool_ready() -> str | None:
            return f"{spool.size_bytes} of {spool.max_bytes} bytes" if spool.size_bytes >= spool.max_bytes else None

        def refresh() -> None:
            metrics.SPOOL_PENDING.set(spool.pending)
            metrics.SPOOL_BYTES.set(spool.size_bytes)
            metrics.DEAD_LETTERS.set(spool.dead_letters)
            metrics.UPSTREAM_UP.set(upstream.state == "ok")

        async with (
            group_commit(send, _BOUNDS, in_flight=_IN_FLIGHT, name="forward") as grouped,
            replay(spool, deliver, upstream),
        ):
            sink = forward(grouped, spool, upstream, settings.forward_timeout_s, spool_when_busy=True)
            routes = [
                *ingest_routes(sink, "sidecar", settings.site_id or None),
                *health_routes(health, {"spool": spool_ready}, refresh),
            ]
            yield Role(build_app([*routes, openapi_route(routes, SIDECAR, "fabmon sidecar")]))
